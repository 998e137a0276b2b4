#include "runtime/models/text_part.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "runtime/model.h"
#include "runtime/models/sources.h"

namespace qianyi {

bool HasTextPart(const nlohmann::json& config, std::string_view type) {
  const auto text = config.find("text_config");
  return config.value("model_type", "") == type && text != config.end() && text->is_object();
}

nlohmann::json TextPart(const nlohmann::json& config, std::string_view text_type) {
  nlohmann::json text = config.at("text_config");
  text["model_type"] = text_type;
  for (const char* field : {"eos_token_id", "tie_word_embeddings"}) {
    if (!text.contains(field) && config.contains(field)) text[field] = config[field];
  }
  // How positions of pictures share a head.
  const auto scaling = text.find("rope_scaling");
  if (scaling == text.end() || !scaling->is_object()) return text;
  auto type = scaling->find("rope_type");
  if (type == scaling->end()) type = scaling->find("type");
  if (type == scaling->end() || *type == "default") text.erase("rope_scaling");
  return text;
}

absl::StatusOr<ModelSpec> DescribeText(const nlohmann::json& text, std::string family) {
  const absl::StatusOr<const ModelFamily*> inner = FindFamily(text);
  if (!inner.ok()) return inner.status();
  absl::StatusOr<ModelSpec> spec = (*inner)->describe(text);
  if (spec.ok()) spec->family = std::move(family);
  return spec;
}

absl::StatusOr<std::unique_ptr<Model>> CreateText(const nlohmann::json& text,
                                                  const ModelFile& file) {
  const absl::StatusOr<const ModelFamily*> inner = FindFamily(text);
  if (!inner.ok()) return inner.status();
  return (*inner)->create(text, file);
}

TensorSources TextSources(const nlohmann::json&, const TensorSpec& tensor) {
  constexpr std::string_view kModel = "model.";
  if (!tensor.name.starts_with(kModel)) return {};
  return {.others = {Renamed(
              tensor, absl::StrCat("model.language_model.", tensor.name.substr(kModel.size())))}};
}

}  // namespace qianyi
