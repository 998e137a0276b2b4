// The part for text of GLM-4.1V and GLM-4.6V-Flash, transformers' Glm4v: Glm4 under other names.
// Its three rows of positions are one where there are no pictures. zai-org/GLM-4.1V-9B-Thinking.
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "runtime/model.h"
#include "runtime/models/registry.h"
#include "runtime/models/sources.h"

namespace qianyi {
namespace {

// The config.json that Glm4 would have.
nlohmann::json TextConfig(const nlohmann::json& json) {
  nlohmann::json text = json.at("text_config");
  text["model_type"] = "glm4";
  for (const char* field : {"eos_token_id", "tie_word_embeddings"}) {
    if (!text.contains(field) && json.contains(field)) text[field] = json[field];
  }
  // How positions of pictures share a head.
  const auto scaling = text.find("rope_scaling");
  if (scaling == text.end() || !scaling->is_object()) return text;
  auto type = scaling->find("rope_type");
  if (type == scaling->end()) type = scaling->find("type");
  if (type == scaling->end() || *type == "default") text.erase("rope_scaling");
  return text;
}

bool Matches(const nlohmann::json& json) {
  const auto text = json.find("text_config");
  return json.value("model_type", "") == "glm4v" && text != json.end() && text->is_object();
}

absl::StatusOr<ModelSpec> Describe(const nlohmann::json& json) {
  const nlohmann::json text = TextConfig(json);
  const absl::StatusOr<const ModelFamily*> family = FindFamily(text);
  if (!family.ok()) return family.status();
  absl::StatusOr<ModelSpec> spec = (*family)->describe(text);
  if (spec.ok()) spec->family = "glm4v";
  return spec;
}

absl::StatusOr<std::unique_ptr<Model>> Create(const nlohmann::json& json, const ModelFile& file) {
  const nlohmann::json text = TextConfig(json);
  const absl::StatusOr<const ModelFamily*> family = FindFamily(text);
  if (!family.ok()) return family.status();
  return (*family)->create(text, file);
}

TensorSources Sources(const nlohmann::json&, const TensorSpec& tensor) {
  constexpr std::string_view kModel = "model.";
  if (!tensor.name.starts_with(kModel)) return {};
  return {.others = {Renamed(
              tensor, absl::StrCat("model.language_model.", tensor.name.substr(kModel.size())))}};
}

}  // namespace

extern const ModelFamily kGlm4vFamily = {.name = "glm4v",
                                         .matches = Matches,
                                         .describe = Describe,
                                         .create = Create,
                                         .sources = Sources};

}  // namespace qianyi
