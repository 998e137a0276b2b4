// Forms of classical verse: how long each clause is, how it is closed, and which ones rhyme.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace qianyi {

struct VerseClause {
  int length = 0;     // characters
  char32_t mark = 0;  // ， 。 or 、
  int rhyme = 0;      // 0 = none; clauses with one number rhyme with each other, on a level tone

  friend bool operator==(const VerseClause&, const VerseClause&) = default;
};

struct VerseForm {
  std::string name;  // as the list of names has it
  std::vector<VerseClause> clauses;
  // 近体诗: all clauses of one length, closed by ， and 。 in turn, the even ones rhyming. Only for
  // these is there a rule of tones.
  bool regulated = false;

  bool rhymes() const;     // false for tunes with oblique rhymes, which the table does not know
  int characters() const;  // without punctuation
};

// The form of a name: 五绝 七绝 五律 七律, their long names (五言绝句 …), those in traditional
// characters, or a 词牌 of tunes.tsv. InvalidArgument names the value and some that exist.
// Thread-safe.
absl::StatusOr<VerseForm> FindVerseForm(std::string_view name);

// Every name once, regulated verse first, then tunes, those most written first. Thread-safe;
// lives as long as the program.
const std::vector<std::string>& VerseFormNames();

// Lines of name, pattern ("7，7。7。"), count and rhymes (a letter or - for each clause) between
// tabs, as scripts/data/make_tunes writes them; lines that begin with # are passed over.
// InvalidArgument names the line.
absl::StatusOr<std::vector<VerseForm>> ParseTunes(std::string_view tsv);

}  // namespace qianyi
