// Whether a finished text keeps a form. Says the same of every text that a constraint lets
// through, by other means: it reads the rules off the whole text.
#pragma once

#include <string_view>

#include "absl/status/status.h"
#include "runtime/verse/verse_constraint.h"
#include "runtime/verse/verse_form.h"

namespace qianyi {

// InvalidArgument names the first violation, in the order of lengths and punctuation, then rhymes
// and tones (of the pattern that the text follows longest). Half-width punctuation counts as
// full-width. A character of unknown tone has any. InvalidArgument also for rules that the form
// does not have. Thread-safe.
absl::Status CheckPoem(std::string_view text, const VerseForm& form, PoemRules rules);

// The same of the two lines of a couplet; a mark at the end of either does not count.
absl::Status CheckCouplet(std::string_view upper, std::string_view lower, CoupletRules rules);

}  // namespace qianyi
