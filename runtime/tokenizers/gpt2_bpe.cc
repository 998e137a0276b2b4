#include "runtime/tokenizers/gpt2_bpe.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <functional>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "runtime/parse_json.h"
#include "runtime/storage/file_util.h"
#include "runtime/tokenizers/utf8.h"
#include "runtime/tokenizers/word_scanner.h"

namespace qianyi {
namespace {

constexpr uint32_t kNoRank = std::numeric_limits<uint32_t>::max();

uint64_t PairKey(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

// The character that stands for each byte: itself where it prints in Latin-1, the others
// numbered from U+0100 in byte order.
struct ByteAlphabet {
  std::array<char32_t, 256> character;
  std::array<int16_t, 512> byte;  // -1 when the character stands for none

  ByteAlphabet() : character{} {
    byte.fill(-1);
    char32_t next = 0x100;
    for (int i = 0; i < 256; ++i) {
      const bool prints = (i >= 0x21 && i <= 0x7E) || (i >= 0xA1 && i <= 0xAC) || i >= 0xAE;
      character[static_cast<size_t>(i)] = prints ? static_cast<char32_t>(i) : next++;
      byte[character[static_cast<size_t>(i)]] = static_cast<int16_t>(i);
    }
  }
};

const ByteAlphabet& Alphabet() {
  static const ByteAlphabet alphabet;
  return alphabet;
}

// The bytes a vocabulary entry stands for. A character outside the alphabet (an added token
// may have one) stands for its own UTF-8.
std::string TokenText(std::string_view token) {
  std::string text;
  while (!token.empty()) {
    const Utf8Step step = StepUtf8(token);
    const char32_t character = FirstCharacter(token);
    const int byte = character < 512 ? Alphabet().byte[character] : -1;
    if (byte >= 0) {
      text.push_back(static_cast<char>(byte));
    } else {
      text.append(token.substr(0, step.bytes));
    }
    token.remove_prefix(step.bytes);
  }
  return text;
}

}  // namespace

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
  int32_t largest = 0;
  for (const auto& [token, value] : vocabulary.items()) {
    if (!value.is_number_unsigned() || value.get<uint64_t>() > kMaxTokenId) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ": token \"", token, "\" has the id ",
                       value.is_number() ? value.dump() : value.type_name(),
                       "; ids are integers from 0 to ", kMaxTokenId));
    }
    const int32_t id = static_cast<int32_t>(value.get<uint64_t>());
    largest = std::max(largest, id);
    ids->emplace(token, id);
  }
  tokens_.resize(static_cast<size_t>(largest) + 1);
  for (const auto& [token, id] : *ids) {
    Token& entry = tokens_[static_cast<size_t>(id)];
    if (entry.present) {
      return absl::InvalidArgumentError(absl::StrCat(name, ": id ", id, " belongs to two tokens"));
    }
    const std::string text = TokenText(token);
    entry = {static_cast<uint32_t>(bytes_.size()), static_cast<uint32_t>(text.size()), true};
    bytes_ += text;
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
  for (const char32_t character : Alphabet().character) {
    std::string symbol;
    AppendCharacter(character, &symbol);
    intern(symbol);
  }
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
    const Merge merge = {static_cast<uint32_t>(merged_.size()), intern(left + right)};
    merged_.push_back(merge.symbol);
    pairs_[PairKey(left_symbol, right_symbol)] = merge;  // of a repeated pair the last counts
  }
  return absl::OkStatus();
}

// Merges one word at a time; holds the scratch of one Encode.
//
// The original takes the pair of lowest rank, merges all its occurrences from left to right,
// and looks again. So do we, with a heap of (rank, position): the occurrences of one rank are
// worked off as a batch, and pairs that come into being meanwhile wait until it is done, even
// if their rank is lower, which odd merge files can bring about.
class Gpt2Bpe::Merger {
 public:
  explicit Merger(const Gpt2Bpe& bpe) : bpe_(bpe) {}

  void Word(std::string_view word, std::vector<int32_t>* ids) {
    nodes_.clear();
    heap_.clear();
    const int32_t count = static_cast<int32_t>(word.size());
    for (int32_t i = 0; i < count; ++i) {
      const int32_t next = i + 1 < count ? i + 1 : -1;
      nodes_.push_back({static_cast<uint8_t>(word[static_cast<size_t>(i)]), i - 1, next, kNoRank});
    }
    for (int32_t i = 0; i + 1 < count; ++i) Rate(i);
    std::make_heap(heap_.begin(), heap_.end(), std::greater<>());
    while (!heap_.empty()) MergeOneRank();
    for (int32_t at = 0; at >= 0; at = node(at).next) {
      ids->push_back(bpe_.symbol_ids_[static_cast<size_t>(node(at).symbol)]);
    }
  }

 private:
  struct Node {
    int32_t symbol;
    int32_t previous;  // -1 at the ends
    int32_t next;
    uint32_t rank;  // of the pair (this, next); kNoRank when they do not merge or this is gone
  };

  Node& node(int32_t at) { return nodes_[static_cast<size_t>(at)]; }

  // Looks up the pair that begins at `at` and, if it merges, appends it to the heap's array.
  bool Rate(int32_t at) {
    Node& left = node(at);
    if (left.next < 0) return false;
    const auto pair = bpe_.pairs_.find(PairKey(left.symbol, node(left.next).symbol));
    if (pair == bpe_.pairs_.end()) return false;
    left.rank = pair->second.rank;
    heap_.push_back(static_cast<uint64_t>(left.rank) << 32 | static_cast<uint32_t>(at));
    return true;
  }

  void MergeOneRank() {
    const uint32_t rank = static_cast<uint32_t>(heap_.front() >> 32);
    changed_.clear();
    while (!heap_.empty() && heap_.front() >> 32 == rank) {
      const int32_t at = static_cast<int32_t>(heap_.front() & 0xFFFFFFFF);
      std::pop_heap(heap_.begin(), heap_.end(), std::greater<>());
      heap_.pop_back();
      if (node(at).rank == rank) Join(at);
    }
    for (const int32_t at : changed_) {
      if (node(at).rank == kNoRank && Rate(at)) {
        std::push_heap(heap_.begin(), heap_.end(), std::greater<>());
      }
    }
  }

  void Join(int32_t at) {
    Node& left = node(at);
    Node& right = node(left.next);
    left.symbol = bpe_.merged_[left.rank];
    left.rank = kNoRank;
    right.rank = kNoRank;
    left.next = right.next;
    if (left.next >= 0) node(left.next).previous = at;
    if (left.previous >= 0) {
      node(left.previous).rank = kNoRank;
      changed_.push_back(left.previous);
    }
    changed_.push_back(at);
  }

  const Gpt2Bpe& bpe_;
  std::vector<Node> nodes_;  // one per byte of the word
  std::vector<uint64_t> heap_;
  std::vector<int32_t> changed_;
};

absl::Status Gpt2Bpe::Encode(std::string_view text, std::vector<int32_t>* ids) const {
  if (text.size() >= static_cast<size_t>(std::numeric_limits<int32_t>::max())) {
    return absl::InvalidArgumentError(
        absl::StrCat("the text has ", text.size(), " bytes; at most 2147483646 can be encoded"));
  }
  Merger merger(*this);
  while (!text.empty()) {
    const size_t bytes = FirstWord(text);
    merger.Word(text.substr(0, bytes), ids);
    text.remove_prefix(bytes);
  }
  return absl::OkStatus();
}

bool Gpt2Bpe::Contains(int32_t id) const {
  return id >= 0 && id < size() && tokens_[static_cast<size_t>(id)].present;
}

std::string_view Gpt2Bpe::Bytes(int32_t id, bool* run_start) const {
  if (!Contains(id)) return {};
  const Token& token = tokens_[static_cast<size_t>(id)];
  if (token.length > 0) *run_start = false;
  return std::string_view(bytes_).substr(token.begin, token.length);
}

}  // namespace qianyi
