// Constraints that keep the form of classical Chinese verse while it is sampled.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/constraint.h"
#include "runtime/verse/verse_form.h"
#include "runtime/verse/verse_tokens.h"

namespace qianyi {

struct PoemRules {
  // The clauses that rhyme do so in one rhyme group, on a level tone, no character twice. In
  // regulated verse: the even lines, and with `tones` the first where its tones make it rhyme.
  bool rhyme = false;
  // Regulated verse keeps one of the four standard patterns: syllables 2, 4 and 6 (二四六分明),
  // 粘 and 对, even lines ending level, no 三平尾, 三仄尾 or 孤平; no 拗救 across lines and no
  // 平平仄平仄. A character of either tone fits both.
  bool tones = false;
};

struct CoupletRules {
  // In each clause, syllables 2, 4 and 6 are opposite to the upper line's; so is the last of the
  // line. A character of either tone, or of the upper line with an unknown one, fits both.
  bool tones = false;
};

// Both constraints leave Chinese characters and the form's punctuation only, never end before
// the end, and after it leave the end tokens only. They cannot get stuck: a token is left only
// if tokens of one character can finish the text from there. A character of unknown tone is left
// only where any tone will do. `tokens` outlives the constraint. FailedPrecondition when the
// vocabulary cannot write the form (says what is missing); InvalidArgument when `end_tokens` is
// empty or one of them is itself part of verse.

// InvalidArgument for rules that the form does not have: tones of a tune, or rhymes of one that
// rhymes obliquely (VerseForm::regulated and rhymes() tell).
absl::StatusOr<std::unique_ptr<Constraint>> MakePoemConstraint(const VerseTokens& tokens,
                                                               const VerseForm& form,
                                                               PoemRules rules,
                                                               std::vector<int32_t> end_tokens);

// The lower line to `upper`: as many characters, the same punctuation at the same places (but
// none at the end), no character of the upper line. InvalidArgument for an upper line that is
// empty, has more than kMaxCoupletCharacters or anything but Chinese characters with single marks
// between them (it is named).
inline constexpr int kMaxCoupletCharacters = 32;
absl::StatusOr<std::unique_ptr<Constraint>> MakeCoupletConstraint(const VerseTokens& tokens,
                                                                  std::string_view upper,
                                                                  CoupletRules rules,
                                                                  std::vector<int32_t> end_tokens);

}  // namespace qianyi
