// Added tokens ("[gMASK]", "<|user|>", "<think>") around a tokenizer of plain text, as the
// Hugging Face tokenizers library has them: AddedVocabulary of its version 0.20.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/tokenizers/longest_word.h"
#include "runtime/tokenizers/text_tokenizer.h"
#include "runtime/tokenizers/word_tokenizer.h"

namespace qianyi {

struct AddedToken {
  std::string word;
  int32_t id = 0;
  bool strips_left = false;   // takes the white space on its left with it
  bool strips_right = false;  // and on its right
  bool single_word = false;   // acts only where no letter, number or _ is beside it
  bool normalized = false;    // looked for after all that are not
  bool acts = true;           // in text; otherwise WordId alone knows it ("sop")
};

// Encode with `specials` cuts the text at the longest added token at each place, from left to
// right; the pieces between are encoded alone. Without, no added token acts.
class AddedTokenTokenizer final : public WordTokenizer {
 public:
  // InvalidArgument when there are too many, or one has no word or an impossible id.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Create(
      std::shared_ptr<const TextTokenizer> text, std::vector<AddedToken> added);

  int32_t CommandId(std::string_view role) const override;

 private:
  struct Piece {
    std::string_view text;
    const AddedToken* token;  // or null
  };

  AddedTokenTokenizer(std::shared_ptr<const TextTokenizer> text, std::vector<AddedToken> added);
  absl::Status EncodeWithWords(std::string_view text, std::vector<int32_t>* ids) const override;
  void Cut(std::string_view text, const LongestWord& words, std::vector<Piece>* pieces) const;

  const std::vector<AddedToken> added_;
  std::unordered_map<std::string_view, const AddedToken*> by_word_;  // views added_
  LongestWord first_words_, normalized_words_;                       // of those that act
};

}  // namespace qianyi
