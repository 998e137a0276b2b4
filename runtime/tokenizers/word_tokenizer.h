// What every tokenizer with words of its own ("[MASK]", "<|user|>") around a tokenizer of plain
// text does alike: the way back from ids, and looking the words up.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/tokenizers/text_tokenizer.h"
#include "runtime/tokenizers/tokenizer.h"

namespace qianyi {

// Encode without `specials` gives the text to the plain tokenizer as it is.
class WordTokenizer : public Tokenizer {
 public:
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text, bool specials) const final;
  absl::StatusOr<std::string> Decode(std::span<const int32_t> ids) const final;
  std::string_view TokenBytes(int32_t id) const final;
  std::string_view NextBytes(int32_t id, bool* run_start) const final;
  int32_t vocab_size() const final { return vocab_size_; }
  int32_t WordId(std::string_view word) const final;

 protected:
  explicit WordTokenizer(std::shared_ptr<const TextTokenizer> text);

  // Of two words that are the same, or have the same id, the later counts. `word` is viewed: the
  // derived class keeps it where it is.
  void AddWord(std::string_view word, int32_t id);

  // Appends the ids of a text that is UTF-8, its words among them.
  virtual absl::Status EncodeWithWords(std::string_view text, std::vector<int32_t>* ids) const = 0;

  const TextTokenizer& plain() const { return *text_; }

 private:
  const std::shared_ptr<const TextTokenizer> text_;
  std::unordered_map<std::string_view, int32_t> id_of_word_;
  std::unordered_map<int32_t, std::string_view> word_of_id_;
  int32_t vocab_size_;
};

// InvalidArgument for a word that is empty or not UTF-8, or an id out of range; `what` names the
// kind of word in the message, e.g. "added token".
absl::Status CheckWord(std::string_view what, std::string_view word, int64_t id);

}  // namespace qianyi
