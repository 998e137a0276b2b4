#include "runtime/verify/verify.h"

#include <filesystem>
#include <string_view>
#include <utility>

#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"
#include "runtime/models/registry.h"
#include "runtime/parse_json.h"
#include "runtime/storage/file_util.h"
#include "runtime/verify/tokenizers.h"

namespace qianyi {
namespace {

using Verifier = absl::Status (*)(const std::string& folder, VerifyReport& report);

// What is not a model of text.
constexpr std::pair<std::string_view, Verifier> kKinds[] = {
    {"fastmoe-gates", VerifyFastMoe},
    {"cogview", VerifyCogView},
    {"vqvae", VerifyVqvae},
    {"lora", VerifyLora},
    {"ptuning-v2", VerifyPtuning},
    {"tokenizer-gpt2", VerifyTokenizerGpt2},
    {"tokenizer-cog", VerifyTokenizerCog},
};

}  // namespace

absl::Status VerifyFolder(const std::string& folder, VerifyReport& report) {
  const std::string path = JoinPath(folder, "config.json");
  absl::StatusOr<std::string> text = ReadTextFile(path, 16 << 20);
  if (!text.ok()) return text.status();
  const nlohmann::json config = ParseJson(*text);
  if (!config.is_object() || !config.contains("fixture") || !config["fixture"].is_string()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s has no \"fixture\" that names its kind", path));
  }
  const std::string kind = config["fixture"].get<std::string>();
  std::string known;
  for (const auto& [name, verify] : kKinds) {
    if (name == kind) return verify(folder, report);
    absl::StrAppendFormat(&known, "%s%s", known.empty() ? "" : ", ", name);
  }
  for (const ModelFamily& family : ModelFamilies()) {
    if (family.name == kind) return VerifyModel(folder, report);
    absl::StrAppendFormat(&known, ", %s", family.name);
  }
  return absl::InvalidArgumentError(absl::StrFormat(
      "%s: fixture kind '%s' is not one of those that can be replayed: %s", path, kind, known));
}

}  // namespace qianyi
