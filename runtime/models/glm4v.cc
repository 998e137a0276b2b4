// The part for text of GLM-4.1V and GLM-4.6V-Flash, transformers' Glm4v: Glm4 under other names.
// zai-org/GLM-4.1V-9B-Thinking.
#include "nlohmann/json.hpp"
#include "runtime/model.h"
#include "runtime/models/registry.h"
#include "runtime/models/text_part.h"

namespace qianyi {
namespace {

bool Matches(const nlohmann::json& json) { return HasTextPart(json, "glm4v"); }

absl::StatusOr<ModelSpec> Describe(const nlohmann::json& json) {
  return DescribeText(TextPart(json, "glm4"), "glm4v");
}

absl::StatusOr<std::unique_ptr<Model>> Create(const nlohmann::json& json, const ModelFile& file) {
  return CreateText(TextPart(json, "glm4"), file);
}

}  // namespace

extern const ModelFamily kGlm4vFamily = {.name = "glm4v",
                                         .matches = Matches,
                                         .describe = Describe,
                                         .create = Create,
                                         .sources = TextSources};

}  // namespace qianyi
