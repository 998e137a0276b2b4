// The patterns that cut a text into words before byte-pair merging, as scanners: linear in the
// text, whatever it is. Unicode properties are ICU's (15.0 in ICU 72): a code point that became a
// letter or a number later is neither here.
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

namespace qianyi {

enum class WordPattern {
  // GPT-2 (Radford et al. 2019): 's 't 're 've 'm 'll 'd, or an optional U+0020 before a run of
  // letters (L*), of numbers (N*) or of anything else that is not white space; white space gives
  // up its last character to the word that follows.
  kGpt2,
  // GLM-4, as tiktoken's later vocabularies: contractions in either case; letters with any one
  // character before them that is no number and no line break; numbers by threes; anything else
  // with the line breaks behind it; white space up to its last line break.
  kGlm4,
};

// The pattern that a tokenizer's file writes as this regular expression.
std::optional<WordPattern> FindWordPattern(std::string_view regex);

// Bytes of the first word of well-formed, non-empty text.
size_t FirstWord(std::string_view text, WordPattern pattern = WordPattern::kGpt2);

}  // namespace qianyi
