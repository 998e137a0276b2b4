#include "runtime/tokenizers/gpt2_bpe.h"

#include <algorithm>
#include <cstddef>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "runtime/parse_json.h"
#include "runtime/storage/file_util.h"
#include "runtime/tokenizers/byte_alphabet.h"
#include "runtime/tokenizers/utf8.h"
#include "runtime/tokenizers/word_scanner.h"

namespace qianyi {

absl::StatusOr<std::unique_ptr<Gpt2Bpe>> Gpt2Bpe::Open(const std::string& vocab_path,
                                                       const std::string& merges_path) {
  absl::StatusOr<std::string> vocab = ReadTextFile(vocab_path, kMaxTokenizerFileBytes);
  if (!vocab.ok()) return vocab.status();
  absl::StatusOr<std::string> merges = ReadTextFile(merges_path, kMaxTokenizerFileBytes);
  if (!merges.ok()) return merges.status();
  return Parse(*vocab, *merges, vocab_path, merges_path);
}

absl::StatusOr<std::unique_ptr<Gpt2Bpe>> Gpt2Bpe::Parse(std::string_view vocab_json,
                                                        std::string_view merges,
                                                        const std::string& vocab_name,
                                                        const std::string& merges_name) {
  std::unique_ptr<Gpt2Bpe> bpe(new Gpt2Bpe());
  std::unordered_map<std::string, int32_t> ids;
  if (absl::Status status = bpe->ParseVocabulary(vocab_json, vocab_name, &ids); !status.ok()) {
    return status;
  }
  if (absl::Status status = bpe->ParseMerges(merges, merges_name, ids); !status.ok()) {
    return status;
  }
  return bpe;
}

absl::Status Gpt2Bpe::ParseVocabulary(std::string_view json, const std::string& name,
                                      std::unordered_map<std::string, int32_t>* ids) {
  const nlohmann::json vocabulary = ParseJson(json);
  if (!vocabulary.is_object() || vocabulary.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": not a JSON object of tokens and their ids"));
  }
  for (const auto& [token, value] : vocabulary.items()) {
    if (!value.is_number_unsigned() || value.get<uint64_t>() > kMaxTokenId) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ": token \"", token, "\" has the id ",
                       value.is_number() ? value.dump() : value.type_name(),
                       "; ids are integers from 0 to ", kMaxTokenId));
    }
    const int32_t id = static_cast<int32_t>(value.get<uint64_t>());
    ids->emplace(token, id);
  }
  for (const auto& [token, id] : *ids) {
    if (!tokens_.Add(id, ByteLevelText(token))) {
      return absl::InvalidArgumentError(absl::StrCat(name, ": id ", id, " belongs to two tokens"));
    }
  }
  return absl::OkStatus();
}

absl::Status Gpt2Bpe::ParseMerges(std::string_view text, const std::string& name,
                                  const std::unordered_map<std::string, int32_t>& ids) {
  std::unordered_map<std::string, int32_t> symbols;
  const auto intern = [&](const std::string& symbol) {
    const auto [at, is_new] = symbols.emplace(symbol, static_cast<int32_t>(symbols.size()));
    if (is_new) {
      const auto known = ids.find(symbol);
      // The original maps what the vocabulary lacks to id 0.
      symbol_ids_.push_back(known == ids.end() ? 0 : known->second);
    }
    return at->second;
  };
  for (int byte = 0; byte < 256; ++byte) {
    std::string symbol;
    AppendCharacter(ByteCharacter(static_cast<uint8_t>(byte)), &symbol);
    pairs_.byte_symbols[byte] = intern(symbol);
  }
  uint32_t rank = 0;
  int line_number = 0;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    ++line_number;
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    if (line.empty() || (line_number == 1 && line.substr(0, 8) == "#version")) continue;
    const size_t space = line.find(' ');
    if (space == 0 || space == std::string_view::npos || space + 1 == line.size() ||
        line.find(' ', space + 1) != std::string_view::npos) {
      return absl::InvalidArgumentError(absl::StrCat(
          name, ": line ", line_number, " is not two symbols with one space between them"));
    }
    if (WellFormedPrefix(line) != line.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ": line ", line_number, " is not UTF-8"));
    }
    const std::string left(line.substr(0, space));
    const std::string right(line.substr(space + 1));
    const int32_t left_symbol = intern(left);
    const int32_t right_symbol = intern(right);
    pairs_.Set(left_symbol, right_symbol, {rank++, intern(left + right)});
  }
  return absl::OkStatus();
}

absl::Status Gpt2Bpe::Encode(std::string_view text, std::vector<int32_t>* ids) const {
  if (text.size() >= static_cast<size_t>(std::numeric_limits<int32_t>::max())) {
    return absl::InvalidArgumentError(
        absl::StrCat("the text has ", text.size(), " bytes; at most 2147483646 can be encoded"));
  }
  using Merger = BytePairMerger<BytePairTable>;
  Merger merger(pairs_, Merger::Order::kRankAtOnce);
  const size_t first = ids->size();
  while (!text.empty()) {
    const size_t bytes = FirstWord(text);
    merger.Word(text.substr(0, bytes), ids);
    text.remove_prefix(bytes);
  }
  for (size_t i = first; i < ids->size(); ++i) {
    (*ids)[i] = symbol_ids_[static_cast<size_t>((*ids)[i])];
  }
  return absl::OkStatus();
}

std::string_view Gpt2Bpe::Bytes(int32_t id, bool* run_start) const {
  const std::string_view bytes = tokens_.Bytes(id);
  if (!bytes.empty()) *run_start = false;
  return bytes;
}

}  // namespace qianyi
