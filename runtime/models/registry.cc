#include "runtime/models/registry.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"
#include "runtime/checkpoints/gguf.h"
#include "runtime/model.h"
#include "runtime/parse_json.h"
#include "runtime/storage/model_file.h"

// The families, each defined in a file of its own. A config.json belongs to the first that matches.
#define QIANYI_FAMILIES(FAMILY) \
  FAMILY(kGlmBlockLmFamily)     \
  FAMILY(kGlm130bFamily)        \
  FAMILY(kChatGlm6bFamily)      \
  FAMILY(kChatGlm2Family)       \
  FAMILY(kGlmFamily)            \
  FAMILY(kGlm4Family)           \
  FAMILY(kGlm4vFamily)          \
  FAMILY(kGlm4vMoeFamily)       \
  FAMILY(kGlm4MoeFamily)        \
  FAMILY(kGlm4MoeLiteFamily)    \
  FAMILY(kCogViewFamily)

namespace qianyi {

#define QIANYI_FAMILY(name) extern const ModelFamily name;
QIANYI_FAMILIES(QIANYI_FAMILY)
#undef QIANYI_FAMILY

namespace {

std::string Join(const std::vector<std::string_view>& names) {
  std::string list;
  for (std::string_view name : names) {
    if (!list.empty()) list += ", ";
    list += name;
  }
  return list;
}

}  // namespace

const std::vector<ModelFamily>& ModelFamilies() {
  static const auto* families = new std::vector<ModelFamily>{
#define QIANYI_FAMILY(name) name,
      QIANYI_FAMILIES(QIANYI_FAMILY)
#undef QIANYI_FAMILY
  };
  return *families;
}

absl::StatusOr<const ModelFamily*> FindFamily(const nlohmann::json& config) {
  if (!config.is_object()) {
    return absl::InvalidArgumentError("config.json must be a JSON object");
  }
  std::vector<std::string_view> names;
  for (const ModelFamily& family : ModelFamilies()) {
    const auto type = config.find("model_type");
    const bool has_type = type != config.end() && type->is_string();
    if (has_type && family.matches(config)) return &family;
    names.push_back(family.name);
  }
  const auto type = config.find("model_type");
  const std::string shown =
      type == config.end()
          ? "missing"
          : type->dump(-1, ' ', true, nlohmann::json::error_handler_t::replace).substr(0, 60);
  return absl::InvalidArgumentError(absl::StrFormat(
      "config.json: model_type is %s and its fields match no model family we run (%s)", shown,
      Join(names)));
}

absl::StatusOr<ModelSpec> DescribeModel(std::string_view config_json) {
  const nlohmann::json config = ParseJson(config_json);
  if (config.is_discarded()) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "config.json is not valid JSON, or nests deeper than %d levels", kMaxJsonDepth));
  }
  absl::StatusOr<const ModelFamily*> family = FindFamily(config);
  if (!family.ok()) return family.status();
  absl::StatusOr<ModelSpec> spec = (*family)->describe(config);
  if (spec.ok()) spec->config_json = std::string(config_json);
  return spec;
}

absl::StatusOr<std::unique_ptr<Model>> CreateModel(const ModelFile& file) {
  const nlohmann::json config = ParseJson(file.spec.config_json);
  absl::StatusOr<const ModelFamily*> family = FindFamily(config);
  if (!family.ok()) return family.status();
  return (*family)->create(config, file);
}

absl::StatusOr<std::string> ConfigFromGguf(const Gguf& gguf) {
  const std::string architecture = gguf.Text("general.architecture");
  std::vector<std::string_view> names;
  for (const ModelFamily& family : ModelFamilies()) {
    if (family.gguf_architecture.empty()) continue;
    names.push_back(family.gguf_architecture);
    if (family.gguf_architecture != architecture) continue;
    absl::StatusOr<nlohmann::json> config = family.config_from_gguf(gguf);
    if (!config.ok()) return config.status();
    return config->dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  }
  return absl::InvalidArgumentError(absl::StrFormat(
      "general.architecture is '%.80s'; those that can be read are %s", architecture, Join(names)));
}

absl::StatusOr<std::string> BuiltinConfig(std::string_view name) {
  for (const ModelFamily& family : ModelFamilies()) {
    for (const BuiltinShape& shape : family.shapes) {
      if (shape.name == name) return std::string(shape.config);
    }
  }
  return absl::NotFoundError(absl::StrFormat(
      "no built-in configuration is called '%s'; there are %s, or give the path of a config.json",
      name, Join(BuiltinConfigNames())));
}

std::vector<std::string_view> BuiltinConfigNames() {
  std::vector<std::string_view> names;
  for (const ModelFamily& family : ModelFamilies()) {
    for (const BuiltinShape& shape : family.shapes) names.push_back(shape.name);
  }
  return names;
}

std::string CheckpointName(const nlohmann::json& config) {
  const auto name = config.find("_name_or_path");
  return name != config.end() && name->is_string() ? name->get<std::string>() : std::string();
}

}  // namespace qianyi
