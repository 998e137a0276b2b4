// Byte-level BPE vocabularies in which every byte is a token: GLM-4 and later, as tokenizer.json
// of the Hugging Face libraries (list of merges) or as tokenizer.model (the tokens' ranks).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "runtime/tokenizers/byte_pair_merger.h"
#include "runtime/tokenizers/text_tokenizer.h"
#include "runtime/tokenizers/token_table.h"
#include "runtime/tokenizers/word_scanner.h"

namespace qianyi {

// Rules in which two tokens join when their bytes together are a token: its id is its rank.
class BytePairRanks {
 public:
  static constexpr size_t kMaxTokenBytes = 4096;

  int32_t byte_symbols[256] = {};

  // Views `bytes`. False when another id has them.
  bool Add(std::string_view bytes, int32_t id);
  int32_t ByteSymbol(uint8_t byte) const { return byte_symbols[byte]; }
  // -1 when the bytes are no token.
  int32_t Find(std::string_view bytes) const;
  const BytePairMerge* Find(int32_t, int32_t, std::string_view joined, BytePairMerge* room) const;

 private:
  std::unordered_map<std::string_view, int32_t> ids_;
  size_t longest_ = 0;
};

class ByteLevelBpe final : public TextTokenizer {
 public:
  using Rules = std::variant<BytePairTable, BytePairRanks>;

  // The rules' symbols are ids of `tokens`, and may view its bytes. A word that `whole_words` has
  // (or that is a token, when the rules are ranks) is that, whatever merging would make of it.
  ByteLevelBpe(TokenTable tokens, Rules rules, BytePairRanks whole_words, WordPattern pattern)
      : tokens_(std::move(tokens)),
        rules_(std::move(rules)),
        whole_words_(std::move(whole_words)),
        pattern_(pattern) {}

  absl::Status Encode(std::string_view text, std::vector<int32_t>* ids) const override;
  int32_t size() const override { return tokens_.size(); }
  bool Contains(int32_t id) const override { return tokens_.Contains(id); }
  std::string_view Bytes(int32_t id, bool* run_start) const override;

 private:
  template <class R>
  void EncodeWords(const R& rules, std::string_view text, std::vector<int32_t>* ids) const;

  const TokenTable tokens_;
  const Rules rules_;
  const BytePairRanks whole_words_;
  const WordPattern pattern_;
};

}  // namespace qianyi
