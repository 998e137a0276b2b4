#include "runtime/tokenizers/tokenizer_json.h"

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"
#include "runtime/parse_json.h"
#include "runtime/tokenizers/added_tokens.h"
#include "runtime/tokenizers/byte_alphabet.h"
#include "runtime/tokenizers/byte_level_bpe.h"
#include "runtime/tokenizers/utf8.h"

namespace qianyi {
namespace {

using nlohmann::json;

absl::Status Malformed(const std::string& what) { return absl::InvalidArgumentError(what); }

// What stands there, cut to a length that fits a message.
std::string Shown(const json& value) {
  std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
  if (text.size() > 200) text = text.substr(0, 200) + "…";
  return text;
}

absl::Status NotDone(const std::string& where, const json& value, const char* known) {
  return absl::UnimplementedError(
      absl::StrCat(where, " is ", Shown(value), "; only ", known, " is supported"));
}

// Null when absent or when `object` is none.
const json& Member(const json& object, const char* name) {
  static const json null;
  if (!object.is_object()) return null;
  const auto at = object.find(name);
  return at == object.end() ? null : *at;
}

bool IsType(const json& component, const char* type) { return Member(component, "type") == type; }

// A component, or the members of a Sequence; null has none.
absl::StatusOr<std::vector<json>> Flatten(const json& component, const char* where,
                                          const char* members) {
  if (component.is_null()) return std::vector<json>();
  if (!IsType(component, "Sequence")) return std::vector<json>{component};
  const json& list = Member(component, members);
  if (!list.is_array()) return Malformed(absl::StrCat(where, ".", members, " is not a list"));
  return list.get<std::vector<json>>();
}

// ByteLevel with the given use_regex, which is true when absent, and without a space in front.
bool IsByteLevel(const json& component, bool use_regex) {
  const json& regex = Member(component, "use_regex");
  return IsType(component, "ByteLevel") && Member(component, "add_prefix_space") == false &&
         (regex.is_null() ? use_regex : regex == use_regex);
}

// How the text is cut into words.
absl::StatusOr<WordPattern> ReadPattern(const json& file) {
  auto steps = Flatten(Member(file, "pre_tokenizer"), "pre_tokenizer", "pretokenizers");
  if (!steps.ok()) return steps.status();
  constexpr char kKnown[] =
      "ByteLevel without add_prefix_space, alone or after one Split without use_regex,";
  if (steps->size() == 1 && IsByteLevel((*steps)[0], true)) return WordPattern::kGpt2;
  if (steps->size() != 2 || !IsType((*steps)[0], "Split") || !IsByteLevel((*steps)[1], false)) {
    return NotDone("pre_tokenizer", Member(file, "pre_tokenizer"), kKnown);
  }
  const json& split = (*steps)[0];
  const json& behavior = Member(split, "behavior");
  const json& invert = Member(split, "invert");
  // Our patterns match all of a text, so what is kept are the matches in either form.
  if (!(behavior == "Isolated" && invert == false) && !(behavior == "Removed" && invert == true)) {
    return NotDone("pre_tokenizer's Split", split, "behavior Isolated, or Removed with invert,");
  }
  const json& regex = Member(Member(split, "pattern"), "Regex");
  const std::optional<WordPattern> pattern =
      regex.is_string() ? FindWordPattern(regex.get_ref<const std::string&>()) : std::nullopt;
  if (pattern.has_value()) return *pattern;
  return NotDone("pre_tokenizer's Split pattern", Member(split, "pattern"), "GPT-2's or GLM-4's");
}

// What changes the text, or cannot be heard in it.
absl::Status CheckComponents(const json& file) {
  const auto normalizers = Flatten(Member(file, "normalizer"), "normalizer", "normalizers");
  if (!normalizers.ok()) return normalizers.status();
  if (!normalizers->empty()) return NotDone("normalizer", (*normalizers)[0], "null");
  const auto decoders = Flatten(Member(file, "decoder"), "decoder", "decoders");
  if (!decoders.ok()) return decoders.status();
  for (const json& decoder : *decoders) {
    if (!IsType(decoder, "ByteLevel")) return NotDone("decoder", decoder, "ByteLevel");
  }
  const auto posts = Flatten(Member(file, "post_processor"), "post_processor", "processors");
  if (!posts.ok()) return posts.status();
  for (const json& post : *posts) {
    if (IsType(post, "ByteLevel") || IsType(post, "TemplateProcessing")) continue;
    return NotDone("post_processor", post, "ByteLevel or TemplateProcessing");
  }
  return absl::OkStatus();
}

absl::Status CheckModel(const json& model) {
  if (!model.is_object()) return Malformed("\"model\" is not an object");
  if (Member(model, "type") != "BPE") return NotDone("model.type", Member(model, "type"), "BPE");
  for (const char* field : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const json& value = Member(model, field);
    if (!value.is_null() && value != "")
      return NotDone(absl::StrCat("model.", field), value, "null");
  }
  const json& dropout = Member(model, "dropout");
  if (!dropout.is_null() && dropout != 0) return NotDone("model.dropout", dropout, "null");
  const json& fallback = Member(model, "byte_fallback");
  if (!fallback.is_null() && fallback != false) {
    return NotDone("model.byte_fallback", fallback, "false");
  }
  return absl::OkStatus();
}

using Vocabulary = std::unordered_map<std::string_view, int32_t>;  // views the file's JSON

absl::StatusOr<int32_t> ReadId(const json& value, const std::string& token) {
  if (value.is_number_unsigned() && value.get<uint64_t>() <= kMaxTokenId) {
    return static_cast<int32_t>(value.get<uint64_t>());
  }
  return Malformed(absl::StrCat("token \"", token, "\" has the id ", Shown(value),
                                "; ids are integers from 0 to ", kMaxTokenId));
}

absl::Status ReadVocabulary(const json& vocab, Vocabulary* ids, TokenTable* tokens) {
  if (!vocab.is_object() || vocab.empty()) {
    return Malformed("\"model\".\"vocab\" is not an object of tokens and their ids");
  }
  ids->reserve(vocab.size());
  for (auto at = vocab.begin(); at != vocab.end(); ++at) {
    const absl::StatusOr<int32_t> id = ReadId(at.value(), at.key());
    if (!id.ok()) return id.status();
    const std::string bytes = ByteLevelText(at.key());
    if (bytes.size() > BytePairRanks::kMaxTokenBytes) {
      return Malformed(absl::StrFormat("token %d has %d bytes; at most %d are allowed", *id,
                                       bytes.size(), BytePairRanks::kMaxTokenBytes));
    }
    if (!tokens->Add(*id, bytes)) {
      return Malformed(absl::StrCat("id ", *id, " belongs to two tokens"));
    }
    ids->emplace(at.key(), *id);
  }
  return absl::OkStatus();
}

// "a b" or ["a", "b"].
bool ReadPair(const json& merge, std::string* left, std::string* right) {
  if (merge.is_string()) {
    const std::string& text = merge.get_ref<const std::string&>();
    const size_t space = text.find(' ');
    if (space == std::string_view::npos) return false;
    *left = text.substr(0, space);
    *right = text.substr(space + 1);
    return true;
  }
  if (!merge.is_array() || merge.size() != 2 || !merge[0].is_string() || !merge[1].is_string()) {
    return false;
  }
  *left = merge[0].get_ref<const std::string&>();
  *right = merge[1].get_ref<const std::string&>();
  return true;
}

absl::Status ReadMerges(const json& merges, const Vocabulary& ids, BytePairTable* table) {
  if (!merges.is_array()) return Malformed("\"model\".\"merges\" is not a list");
  uint32_t rank = 0;
  for (const json& merge : merges) {
    std::string left, right;
    if (!ReadPair(merge, &left, &right)) {
      return Malformed(absl::StrCat("merge ", rank, " is ", Shown(merge), ", which is no pair"));
    }
    const auto a = ids.find(left);
    const auto b = ids.find(right);
    const auto joined = ids.find(left + right);
    if (a == ids.end() || b == ids.end() || joined == ids.end()) {
      return Malformed(absl::StrCat("merge ", rank, " is ", Shown(merge),
                                    ": the vocabulary lacks a part of it, or what it makes"));
    }
    table->Set(a->second, b->second, {rank++, joined->second});
  }
  return absl::OkStatus();
}

absl::Status ReadBytes(const Vocabulary& ids, BytePairTable* table) {
  for (int byte = 0; byte < 256; ++byte) {
    std::string character;
    AppendCharacter(ByteCharacter(static_cast<uint8_t>(byte)), &character);
    const auto at = ids.find(character);
    if (at == ids.end()) {
      return Malformed(
          absl::StrFormat("the byte 0x%02X is no token; a vocabulary of bytes has all", byte));
    }
    table->byte_symbols[byte] = at->second;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<const TextTokenizer>> ReadModel(const json& file) {
  const json& model = Member(file, "model");
  if (absl::Status status = CheckModel(model); !status.ok()) return status;
  absl::StatusOr<WordPattern> pattern = ReadPattern(file);
  if (!pattern.ok()) return pattern.status();
  Vocabulary ids;
  TokenTable tokens;
  BytePairTable table;
  for (absl::Status status :
       {ReadVocabulary(Member(model, "vocab"), &ids, &tokens), ReadBytes(ids, &table),
        ReadMerges(Member(model, "merges"), ids, &table)}) {
    if (!status.ok()) return status;
  }
  BytePairRanks whole_words;
  if (Member(model, "ignore_merges") == true) {
    for (int32_t id = 0; id < tokens.size(); ++id) {
      if (tokens.Contains(id) && !tokens.Bytes(id).empty()) whole_words.Add(tokens.Bytes(id), id);
    }
  }
  return std::make_shared<ByteLevelBpe>(std::move(tokens), std::move(table), std::move(whole_words),
                                        *pattern);
}

absl::StatusOr<std::vector<AddedToken>> ReadAdded(const json& list) {
  std::vector<AddedToken> added;
  if (list.is_null()) return added;
  if (!list.is_array()) return Malformed("\"added_tokens\" is not a list");
  for (const json& entry : list) {
    const json& word = Member(entry, "content");
    if (!word.is_string()) {
      return Malformed(absl::StrCat("added token ", added.size(), " has no content"));
    }
    AddedToken token{.word = word.get<std::string>()};
    const absl::StatusOr<int32_t> id = ReadId(Member(entry, "id"), token.word);
    if (!id.ok()) return id.status();
    token.id = *id;
    for (const auto& [field, to] : {std::pair{"lstrip", &token.strips_left},
                                    {"rstrip", &token.strips_right},
                                    {"single_word", &token.single_word},
                                    {"normalized", &token.normalized}}) {
      const json& value = Member(entry, field);
      if (!value.is_null() && !value.is_boolean()) {
        return Malformed(absl::StrCat("added token ", token.word, ": ", field, " is ", Shown(value),
                                      "; it must be true or false"));
      }
      *to = value == true;
    }
    added.push_back(std::move(token));
  }
  return added;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Read(const json& file) {
  if (!file.is_object()) return Malformed("not a JSON object");
  if (absl::Status status = CheckComponents(file); !status.ok()) return status;
  auto text = ReadModel(file);
  if (!text.ok()) return text.status();
  absl::StatusOr<std::vector<AddedToken>> added = ReadAdded(Member(file, "added_tokens"));
  if (!added.ok()) return added.status();
  return AddedTokenTokenizer::Create(*std::move(text), *std::move(added));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> ParseTokenizerJson(std::string_view file,
                                                              const std::string& name) {
  auto tokenizer = Read(ParseJson(file));
  if (tokenizer.ok()) return tokenizer;
  return absl::Status(tokenizer.status().code(),
                      absl::StrCat(name, ": ", tokenizer.status().message()));
}

}  // namespace qianyi
