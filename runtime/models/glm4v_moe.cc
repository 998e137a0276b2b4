// The part for text of GLM-4.5V and GLM-4.6V, transformers' Glm4vMoe: Glm4Moe without norms of
// queries and keys, under other names. zai-org/GLM-4.5V.
#include <memory>

#include "nlohmann/json.hpp"
#include "runtime/model.h"
#include "runtime/models/registry.h"
#include "runtime/models/text_part.h"

namespace qianyi {
namespace {

nlohmann::json Text(const nlohmann::json& json) {
  nlohmann::json text = TextPart(json, "glm4_moe");
  text["use_qk_norm"] = false;  // whatever the config says: the class has none
  return text;
}

bool Matches(const nlohmann::json& json) { return HasTextPart(json, "glm4v_moe"); }

absl::StatusOr<ModelSpec> Describe(const nlohmann::json& json) {
  return DescribeText(Text(json), "glm4v-moe");
}

absl::StatusOr<std::unique_ptr<Model>> Create(const nlohmann::json& json, const ModelFile& file) {
  return CreateText(Text(json), file);
}

}  // namespace

extern const ModelFamily kGlm4vMoeFamily = {.name = "glm4v-moe",
                                            .matches = Matches,
                                            .describe = Describe,
                                            .create = Create,
                                            .sources = TextSources};

}  // namespace qianyi
