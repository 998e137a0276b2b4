#include "runtime/tokenizers/tokenizer.h"

#include <filesystem>
#include <string>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"
#include "runtime/parse_json.h"
#include "runtime/storage/file_util.h"
#include "runtime/tokenizers/commands.h"
#include "runtime/tokenizers/gpt2_bpe.h"
#include "runtime/tokenizers/locate_file.h"
#include "runtime/tokenizers/sentencepiece_tokenizer.h"

namespace qianyi {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

using TokenizerOr = absl::StatusOr<std::unique_ptr<Tokenizer>>;

bool Exists(const fs::path& path) {
  std::error_code error;
  return fs::is_regular_file(path, error);
}

absl::Status Named(const fs::path& config, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(config.string(), ": ", status.message()));
}

absl::StatusOr<std::string> Locate(const fs::path& folder, const json& tokenizer,
                                   const char* field) {
  const auto at = tokenizer.find(field);
  if (at == tokenizer.end() || !at->is_string()) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"tokenizer\": \"", field, "\" must name a file"));
  }
  absl::StatusOr<std::string> path = LocateFile(folder.string(), at->get<std::string>());
  if (path.ok()) return path;
  return absl::Status(path.status().code(),
                      absl::StrCat("\"tokenizer\": \"", field, "\": ", path.status().message()));
}

absl::StatusOr<std::vector<CommandToken>> ConfiguredCommands(const json& tokenizer,
                                                             std::string_view standard) {
  const auto at = tokenizer.find("commands");
  if (at != tokenizer.end() && !at->is_string()) return ParseCommands(*at);
  const std::string name = at == tokenizer.end() ? std::string(standard) : at->get<std::string>();
  if (const std::vector<CommandToken>* commands = StandardCommands(name)) return *commands;
  return absl::InvalidArgumentError(
      absl::StrCat("\"tokenizer\": \"commands\" names no known table: ", name));
}

TokenizerOr Wrap(absl::StatusOr<std::shared_ptr<const TextTokenizer>> text,
                 absl::StatusOr<std::vector<CommandToken>> commands) {
  if (!text.ok()) return text.status();
  if (!commands.ok()) return commands.status();
  return CommandTokenizer::Create(*std::move(text), *std::move(commands));
}

// A standard table belongs to one vocabulary: refuse to lay it over another one's tokens.
TokenizerOr WrapStandard(const fs::path& file,
                         absl::StatusOr<std::shared_ptr<const TextTokenizer>> text,
                         std::string_view table) {
  if (!text.ok()) return text.status();
  const std::vector<CommandToken>& commands = *StandardCommands(table);
  for (const CommandToken& command : commands) {
    bool run_start = false;
    if (!(*text)->Contains(command.id) || (*text)->Bytes(command.id, &run_start) == command.word) {
      continue;
    }
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: token %d is not the command %s of %s; name this model's command table in config.json, "
        "\"tokenizer\": {\"commands\": ...}",
        file.string(), command.id, command.word, table));
  }
  return CommandTokenizer::Create(*std::move(text), commands);
}

TokenizerOr OpenConfigured(const fs::path& folder, const json& tokenizer) {
  if (!tokenizer.is_object()) {
    return absl::InvalidArgumentError("\"tokenizer\" is not an object");
  }
  const std::string kind = tokenizer.contains("kind") && tokenizer["kind"].is_string()
                               ? tokenizer["kind"].get<std::string>()
                               : "";
  if (kind == "gpt2-bpe") {
    const absl::StatusOr<std::string> vocab = Locate(folder, tokenizer, "vocab_file");
    if (!vocab.ok()) return vocab.status();
    const absl::StatusOr<std::string> merges = Locate(folder, tokenizer, "merges_file");
    if (!merges.ok()) return merges.status();
    return Wrap(Gpt2Bpe::Open(*vocab, *merges), ConfiguredCommands(tokenizer, "glm-english"));
  }
  if (kind == "sentencepiece") {
    const absl::StatusOr<std::string> model = Locate(folder, tokenizer, "model_file");
    if (!model.ok()) return model.status();
    return Wrap(SentencePieceTokenizer::Open(*model), ConfiguredCommands(tokenizer, "glm-chinese"));
  }
  return absl::InvalidArgumentError(absl::StrCat("\"tokenizer\": \"kind\" is \"", kind,
                                                 "\"; it must be gpt2-bpe or sentencepiece"));
}

TokenizerOr OpenFound(const fs::path& folder, const json& config) {
  const fs::path vocab = folder / "vocab.json";
  const fs::path merges = folder / "merges.txt";
  if (Exists(vocab) && Exists(merges)) {
    return WrapStandard(vocab, Gpt2Bpe::Open(vocab.string(), merges.string()), "glm-english");
  }
  // tokenizer.model is also what ChatGLM2 and later call a file of another vocabulary.
  const bool is_glm =
      config.is_object() && config.contains("model_type") && config["model_type"] == "glm";
  for (const char* name : {"cog-pretrain.model", "tokenizer.model"}) {
    const fs::path model = folder / name;
    if (!Exists(model) || (name == std::string_view("tokenizer.model") && !is_glm)) continue;
    return WrapStandard(model, SentencePieceTokenizer::Open(model.string()), "glm-chinese");
  }
  return absl::NotFoundError(absl::StrCat(
      folder.string(), ": no tokenizer: config.json has no \"tokenizer\", and there is neither ",
      "vocab.json with merges.txt nor cog-pretrain.model"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> OpenTokenizer(const std::string& folder) {
  const fs::path config_path = fs::path(folder) / "config.json";
  json config;
  if (Exists(config_path)) {
    const absl::StatusOr<std::string> text =
        ReadTextFile(config_path.string(), kMaxTokenizerFileBytes);
    if (!text.ok()) return text.status();
    config = ParseJson(*text);
    if (!config.is_object()) {
      return absl::InvalidArgumentError(absl::StrCat(config_path.string(), ": not a JSON object"));
    }
    if (const auto tokenizer = config.find("tokenizer"); tokenizer != config.end()) {
      TokenizerOr opened = OpenConfigured(folder, *tokenizer);
      if (!opened.ok()) return Named(config_path, opened.status());
      return opened;
    }
  }
  return OpenFound(folder, config);
}

}  // namespace qianyi
