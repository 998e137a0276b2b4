// The families Qianyi can run. Adding one is a file beside this and a line in registry.cc.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json_fwd.hpp"
#include "runtime/model_spec.h"

namespace qianyi {

class Model;
class WeightStore;

struct ModelFamily {
  std::string_view name;
  // True when config.json describes this family.
  bool (*matches)(const nlohmann::json& config);
  // Checks every field (InvalidArgument names field, value and limit) and lists the tensors.
  absl::StatusOr<ModelSpec> (*describe)(const nlohmann::json& config);
  // The model over opened weights; `store` outlives it.
  absl::StatusOr<std::unique_ptr<Model>> (*create)(const nlohmann::json& config,
                                                   const ModelSpec& spec, WeightStore& store);
};

const std::vector<ModelFamily>& ModelFamilies();

// The family that matches, or InvalidArgument listing those there are.
absl::StatusOr<const ModelFamily*> FindFamily(const nlohmann::json& config);
// Parses JSON text, finds the family and describes it.
absl::StatusOr<ModelSpec> DescribeModel(std::string_view config_json);

// Shapes known by name ("glm-4-9b", …) as config.json text; NotFound lists the names.
absl::StatusOr<std::string> BuiltinConfig(std::string_view name);
std::vector<std::string_view> BuiltinConfigNames();

}  // namespace qianyi
