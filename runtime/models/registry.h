// The families Qianyi can run. Adding one is a file beside this and a line in registry.cc.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json_fwd.hpp"
#include "runtime/model_spec.h"

namespace qianyi {

class Model;
struct Gguf;
struct ModelFile;
struct TensorSources;

// A shape known by name ("glm-4-9b"), as config.json text.
struct BuiltinShape {
  std::string_view name;
  std::string_view config;
};

struct ModelFamily {
  std::string_view name;
  // True when config.json describes this family.
  bool (*matches)(const nlohmann::json& config);
  // Checks every field (InvalidArgument names field, value and limit) and lists the tensors.
  absl::StatusOr<ModelSpec> (*describe)(const nlohmann::json& config);
  // The model of a table of contents; takes no weights.
  absl::StatusOr<std::unique_ptr<Model>> (*create)(const nlohmann::json& config,
                                                   const ModelFile& file);
  // Where checkpoints may have a tensor besides whole and under its own name
  // (runtime/models/sources.h). Null: nowhere.
  TensorSources (*sources)(const nlohmann::json& config, const TensorSpec& tensor) = nullptr;
  // The general.architecture of GGUF files of the family ("": there are none), and the config.json
  // that their metadata stands for.
  std::string_view gguf_architecture = {};
  absl::StatusOr<nlohmann::json> (*config_from_gguf)(const Gguf& gguf) = nullptr;
  // The name of the chat format (runtime/chat) of a config.json that names none; null: not a chat
  // model.
  std::string_view (*chat_format)(const nlohmann::json& config) = nullptr;
  std::span<const BuiltinShape> shapes = {};
};

const std::vector<ModelFamily>& ModelFamilies();

// The family that matches, or InvalidArgument listing those there are.
absl::StatusOr<const ModelFamily*> FindFamily(const nlohmann::json& config);
// Parses JSON text, finds the family and describes it.
absl::StatusOr<ModelSpec> DescribeModel(std::string_view config_json);
// The model whose tensors `file` lists: enough to lay out prompts; it runs over a WeightStore
// opened on the same table.
absl::StatusOr<std::unique_ptr<Model>> CreateModel(const ModelFile& file);

// config.json of a GGUF file, by its architecture; InvalidArgument lists those there are.
absl::StatusOr<std::string> ConfigFromGguf(const Gguf& gguf);

// A built-in shape of any family; NotFound lists the names.
absl::StatusOr<std::string> BuiltinConfig(std::string_view name);
std::vector<std::string_view> BuiltinConfigNames();

// _name_or_path, what a config.json says it was published as; empty if it does not.
std::string CheckpointName(const nlohmann::json& config);

}  // namespace qianyi
