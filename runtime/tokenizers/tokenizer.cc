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
#include "runtime/tokenizers/cogview_tokenizer.h"
#include "runtime/tokenizers/commands.h"
#include "runtime/tokenizers/glm_sentencepiece.h"
#include "runtime/tokenizers/gpt2_bpe.h"
#include "runtime/tokenizers/locate_file.h"
#include "runtime/tokenizers/rank_bpe.h"
#include "runtime/tokenizers/sentencepiece_tokenizer.h"
#include "runtime/tokenizers/tokenizer_json.h"

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

TokenizerOr OpenRanks(std::string_view file, const std::string& name) {
  absl::StatusOr<std::unique_ptr<ByteLevelBpe>> text = ParseRanks(file, name);
  if (!text.ok()) return text.status();
  std::vector<AddedToken> specials = Glm4SpecialTokens((*text)->size());
  return AddedTokenTokenizer::Create(*std::move(text), std::move(specials));
}

absl::StatusOr<IcetkOptions> ReadIcetkOptions(const json& tokenizer) {
  IcetkOptions options;
  const json images = tokenizer.value("image_tokens", json(0));
  const json prefix = tokenizer.value("dummy_prefix", json(true));
  const bool good = images.is_number_integer() && images.get<uint64_t>() <= kMaxTokenId;
  if (!good || !prefix.is_boolean()) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"tokenizer\": \"image_tokens\" must be 0 to ", kMaxTokenId,
                     " (20000 in GLM-130B, else 0), and \"dummy_prefix\" true or false"));
  }
  options.image_tokens = static_cast<int32_t>(images.get<uint64_t>());
  options.dummy_prefix = prefix.get<bool>();
  return options;
}

// The kinds whose one file says everything.
TokenizerOr OpenFile(const std::string& kind, const std::string& path, const json& tokenizer) {
  const absl::StatusOr<std::string> file = ReadTextFile(path, kMaxTokenizerFileBytes);
  if (!file.ok()) return file.status();
  if (kind == "tokenizer-json") return ParseTokenizerJson(*file, path);
  if (kind == "rank-bpe") return OpenRanks(*file, path);
  if (kind == "chatglm-sentencepiece") return ParseChatGlmPieces(*file, path);
  const absl::StatusOr<IcetkOptions> options = ReadIcetkOptions(tokenizer);
  return options.ok() ? ParseIcetk(*file, *options, path) : options.status();
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
  for (const char* known : {"tokenizer-json", "rank-bpe", "chatglm-sentencepiece", "icetk"}) {
    if (kind != known) continue;
    const absl::StatusOr<std::string> file = Locate(folder, tokenizer, "model_file");
    return file.ok() ? OpenFile(kind, *file, tokenizer) : file.status();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "\"tokenizer\": \"kind\" is \"", kind,
      "\"; it must be gpt2-bpe, sentencepiece, tokenizer-json, rank-bpe, chatglm-sentencepiece or "
      "icetk"));
}

TokenizerOr OpenFound(const fs::path& folder, const json& config) {
  const fs::path vocab = folder / "vocab.json";
  const fs::path merges = folder / "merges.txt";
  if (Exists(vocab) && Exists(merges)) {
    return WrapStandard(vocab, Gpt2Bpe::Open(vocab.string(), merges.string()), "glm-english");
  }
  // tokenizer.model is also what ChatGLM2 and later call a file of another vocabulary.
  const json type = config.is_object() ? config.value("model_type", json()) : json();
  const bool is_glm = type == "glm" && !Exists(folder / "tokenizer.json");
  for (const char* name : {"cog-pretrain.model", "tokenizer.model"}) {
    const fs::path model = folder / name;
    if (!Exists(model) || (name == std::string_view("tokenizer.model") && !is_glm)) continue;
    return WrapStandard(model, SentencePieceTokenizer::Open(model.string()), "glm-chinese");
  }
  if (Exists(folder / "tokenizer.json")) {
    return OpenFile("tokenizer-json", (folder / "tokenizer.json").string(), config);
  }
  if (Exists(folder / "ice_text.model")) {
    // The vocabularies with pictures have 150528 places, the others 130528.
    const bool pictures = config.is_object() && config.value("vocab_size", json()) == 150528;
    return OpenFile("icetk", (folder / "ice_text.model").string(),
                    {{"image_tokens", pictures ? 20000 : 0}});
  }
  if (const fs::path model = folder / "tokenizer.model"; Exists(model)) {
    const absl::StatusOr<std::string> file = ReadTextFile(model.string(), kMaxTokenizerFileBytes);
    if (!file.ok()) return file.status();
    return LooksLikeRanks(*file) ? OpenRanks(*file, model.string())
                                 : ParseChatGlmPieces(*file, model.string());
  }
  return absl::NotFoundError(absl::StrCat(
      folder.string(), ": no tokenizer: config.json has no \"tokenizer\", and there is none of ",
      "vocab.json with merges.txt, cog-pretrain.model, tokenizer.json, ice_text.model and ",
      "tokenizer.model"));
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
    if (const auto type = config.find("model_type"); type != config.end() && *type == "cogview") {
      return OpenCogViewTokenizer(folder, config);
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
