// Sentencepiece's normalizer: replaces characters by the model's table, collapses white
// space and marks it as U+2581. As in version 0.1.97.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "runtime/tokenizers/longest_word.h"
#include "runtime/tokenizers/sentencepiece_model.h"

namespace qianyi {

// What stands for a space in pieces: U+2581.
inline constexpr std::string_view kSpaceMark = "\xE2\x96\x81";

// The user-defined pieces of a model, whose strings it views.
LongestWord UserDefinedPieces(const SentencePieceModel& model);

class SentencePieceNormalizer {
 public:
  // Both outlive the normalizer.
  SentencePieceNormalizer(const SentencePieceModel& model, const LongestWord& user_defined)
      : model_(model), user_defined_(user_defined) {}

  // `text` is well-formed UTF-8; the result may be ill-formed if the model's table is.
  std::string Normalize(std::string_view text) const;

 private:
  struct Prefix {
    std::string_view replacement;
    size_t bytes;  // of the text, at least 1
  };
  Prefix First(std::string_view text) const;
  bool LongestRule(std::string_view text, Prefix* prefix) const;

  const SentencePieceModel& model_;
  const LongestWord& user_defined_;
};

}  // namespace qianyi
