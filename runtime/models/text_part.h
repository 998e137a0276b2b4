// The part for text of models that also look at pictures: a family of its own under other names,
// with its config.json as "text_config". Their three rows of positions are one where there are no
// pictures.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "nlohmann/json_fwd.hpp"
#include "runtime/model_spec.h"
#include "runtime/models/registry.h"

namespace qianyi {

// model_type is `type`, and there is a text_config.
bool HasTextPart(const nlohmann::json& config, std::string_view type);

// The config.json that the model of text alone would have, whose model_type is `text_type`.
nlohmann::json TextPart(const nlohmann::json& config, std::string_view text_type);

// What ModelFamily's functions of these names do, of a TextPart; the spec's family is `family`.
absl::StatusOr<ModelSpec> DescribeText(const nlohmann::json& text, std::string family);
absl::StatusOr<std::unique_ptr<Model>> CreateText(const nlohmann::json& text,
                                                  const ModelFile& file);
// "model.X" is "model.language_model.X" in checkpoints.
TensorSources TextSources(const nlohmann::json& config, const TensorSpec& tensor);

}  // namespace qianyi
