#include "runtime/checkpoints/gguf_tokenizer.h"

#include <bit>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"

namespace qianyi {
namespace {

using nlohmann::json;

enum TokenType : int64_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5 };

// The pattern of GLM-4, in the words of its tokenizer.json.
constexpr char kGlm4Pattern[] =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";

// Types of all tokens: normal where the file does not say.
absl::StatusOr<std::vector<int64_t>> Types(const Gguf& gguf, size_t count) {
  std::vector<int64_t> types(count, kNormal);
  if (const std::vector<int64_t>* said = gguf.Ints("tokenizer.ggml.token_type")) types = *said;
  if (types.size() == count) return types;
  return absl::InvalidArgumentError(absl::StrFormat(
      "tokenizer.ggml.token_type has %d entries for %d tokens", types.size(), count));
}

absl::StatusOr<std::string> TokenizerJson(const Gguf& gguf,
                                          const std::vector<std::string>& tokens) {
  absl::StatusOr<std::vector<int64_t>> types = Types(gguf, tokens.size());
  if (!types.ok()) return types.status();
  json vocab = json::object(), added = json::array(), merges = json::array();
  for (size_t id = 0; id < tokens.size(); ++id) {
    const int64_t type = (*types)[id];
    if (type == kNormal) {
      vocab[tokens[id]] = id;
    } else if (type == kControl || type == kUserDefined) {
      added.push_back({{"id", id},
                       {"content", tokens[id]},
                       {"single_word", false},
                       {"lstrip", false},
                       {"rstrip", false},
                       {"normalized", false},
                       {"special", type == kControl}});
    }
  }
  if (const std::vector<std::string>* pairs = gguf.Texts("tokenizer.ggml.merges")) {
    for (const std::string& pair : *pairs) merges.push_back(pair);
  }
  const json split = {{"type", "Split"},
                      {"pattern", {{"Regex", kGlm4Pattern}}},
                      {"behavior", "Isolated"},
                      {"invert", false}};
  const json bytes = {{"type", "ByteLevel"},
                      {"add_prefix_space", false},
                      {"trim_offsets", true},
                      {"use_regex", false}};
  const json file = {
      {"version", "1.0"},
      {"added_tokens", added},
      {"normalizer", nullptr},
      {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", {split, bytes}}}},
      {"post_processor", nullptr},
      {"decoder", {{"type", "ByteLevel"}}},
      {"model", {{"type", "BPE"}, {"byte_fallback", false}, {"vocab", vocab}, {"merges", merges}}}};
  return file.dump(-1, ' ', false, json::error_handler_t::replace);
}

// ---- protocol buffers, as far as a sentencepiece model needs them

void AddVarint(uint64_t value, std::string* out) {
  for (; value >= 128; value >>= 7) out->push_back(static_cast<char>(value | 128));
  out->push_back(static_cast<char>(value));
}
void AddNumber(int field, uint64_t value, std::string* out) {
  AddVarint(field * 8, out);
  AddVarint(value, out);
}
void AddBytes(int field, std::string_view bytes, std::string* out) {
  AddVarint(field * 8 + 2, out);
  AddVarint(bytes.size(), out);
  out->append(bytes);
}
void AddFloat(int field, float value, std::string* out) {
  AddVarint(field * 8 + 5, out);
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  for (int shift = 0; shift < 32; shift += 8) out->push_back(static_cast<char>(bits >> shift));
}

// ChatGLM3's pieces. What follows them in the file, command words and padding, the tokenizer of
// that model adds itself; the converter also renamed the second and the third piece.
absl::StatusOr<std::string> SentencePieceFile(const Gguf& gguf,
                                              const std::vector<std::string>& tokens) {
  absl::StatusOr<std::vector<int64_t>> types = Types(gguf, tokens.size());
  if (!types.ok()) return types.status();
  const std::vector<double>* scores = gguf.Numbers("tokenizer.ggml.scores");
  if (scores == nullptr || scores->size() != tokens.size()) {
    return absl::InvalidArgumentError("tokenizer.ggml.scores has not one number for each token");
  }
  std::string file;
  for (size_t id = 0; id < tokens.size() && tokens[id] != "[MASK]"; ++id) {
    if ((*types)[id] < kNormal || (*types)[id] > 6) {
      return absl::InvalidArgumentError(
          absl::StrFormat("tokenizer.ggml.token_type: token %d has %d", id, (*types)[id]));
    }
    std::string piece;
    AddBytes(1, id == 1 ? "<s>" : id == 2 ? "</s>" : tokens[id], &piece);
    AddFloat(2, static_cast<float>((*scores)[id]), &piece);
    AddNumber(3, (*types)[id], &piece);
    AddBytes(1, piece, &file);
  }
  constexpr int kBpe = 2;
  std::string trainer, normalizer;
  AddNumber(3, kBpe, &trainer);
  AddNumber(35, 1, &trainer);  // byte_fallback
  AddBytes(1, "identity", &normalizer);
  AddNumber(3, gguf.Int("tokenizer.ggml.add_space_prefix").value_or(1) != 0, &normalizer);
  AddNumber(4, gguf.Int("tokenizer.ggml.remove_extra_whitespaces").value_or(0) != 0, &normalizer);
  AddNumber(5, 1, &normalizer);  // escape_whitespaces
  AddBytes(2, trainer, &file);
  AddBytes(3, normalizer, &file);
  return file;
}

}  // namespace

absl::StatusOr<std::map<std::string, std::string>> TokenizerFiles(const Gguf& gguf) {
  std::map<std::string, std::string> files;
  const std::string model = gguf.Text("tokenizer.ggml.model");
  const std::string words = gguf.Text("tokenizer.ggml.pre");
  const std::vector<std::string>* tokens = gguf.Texts("tokenizer.ggml.tokens");
  if (tokens == nullptr || model == "none") return files;
  if (model == "gpt2" && (words == "glm4" || words == "chatglm-bpe")) {
    absl::StatusOr<std::string> file = TokenizerJson(gguf, *tokens);
    if (!file.ok()) return file.status();
    files["tokenizer.json"] = *std::move(file);
    return files;
  }
  if (model == "llama") {
    absl::StatusOr<std::string> file = SentencePieceFile(gguf, *tokens);
    if (!file.ok()) return file.status();
    files["tokenizer.model"] = *std::move(file);
    return files;
  }
  return absl::UnimplementedError(absl::StrFormat(
      "tokenizer.ggml.model is '%s' and tokenizer.ggml.pre '%s'; GLM's are 'gpt2' with 'glm4' or "
      "'chatglm-bpe', and 'llama'",
      model, words));
}

}  // namespace qianyi
