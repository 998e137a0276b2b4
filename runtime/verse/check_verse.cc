#include "runtime/verse/check_verse.h"

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "runtime/verse/character_table.h"
#include "runtime/verse/verse_text.h"

namespace qianyi {
namespace {

enum class Tone { kLevel, kOblique };

Tone Other(Tone tone) { return tone == Tone::kLevel ? Tone::kOblique : Tone::kLevel; }
const char* NameOf(Tone tone) { return tone == Tone::kLevel ? "level" : "oblique"; }

bool CanBe(char32_t character, Tone tone) {
  const Sound sound = CharacterTable::Get().Find(character);
  return !sound.known() || (tone == Tone::kLevel ? sound.level : sound.oblique);
}

struct Violation {
  std::pair<int, int> place;  // clause, syllable
  std::string what;
};
using Verdict = std::optional<Violation>;

absl::Status Wrong(const std::string& what) { return absl::InvalidArgumentError(what); }

// The clauses as the form cuts them, or what is wrong with lengths and punctuation.
absl::StatusOr<std::vector<std::u32string>> Cut(std::string_view text, const VerseForm& form) {
  std::vector<std::u32string> clauses(1);
  for (const char32_t c : Characters(text)) {
    const int number = static_cast<int>(clauses.size());
    if (number > static_cast<int>(form.clauses.size())) {
      return Wrong(absl::StrFormat("\"%s\" after the last clause; %s has %d", Utf8(c), form.name,
                                   form.clauses.size()));
    }
    const VerseClause& wants = form.clauses[number - 1];
    if (IsHan(c)) {
      clauses.back().push_back(c);
      continue;
    }
    const char32_t mark = VerseMark(c);
    if (mark == 0) {
      return Wrong(absl::StrFormat("clause %d has \"%s\", which is not a Chinese character", number,
                                   Utf8(c)));
    }
    if (static_cast<int>(clauses.back().size()) != wants.length) {
      return Wrong(absl::StrFormat("clause %d has %d characters; %s wants %d", number,
                                   clauses.back().size(), form.name, wants.length));
    }
    if (mark != wants.mark) {
      return Wrong(absl::StrFormat("clause %d ends with %s; %s wants %s", number, Utf8(c),
                                   form.name, Utf8(wants.mark)));
    }
    clauses.emplace_back();
  }
  if (!clauses.back().empty()) {
    return Wrong(absl::StrFormat("clause %d is not closed; %s wants %s", clauses.size(), form.name,
                                 Utf8(form.clauses[clauses.size() - 1].mark)));
  }
  clauses.pop_back();
  if (clauses.size() != form.clauses.size()) {
    return Wrong(absl::StrFormat("the text has %d clauses; %s has %d", clauses.size(), form.name,
                                 form.clauses.size()));
  }
  return clauses;
}

// The ends of clauses `numbers` (from 0): level, in one group, each another character.
Verdict CheckRhyme(const std::vector<std::u32string>& clauses, const std::vector<int>& numbers) {
  uint32_t common = ~uint32_t{0};
  for (size_t i = 0; i < numbers.size(); ++i) {
    const char32_t end = clauses[numbers[i]].back();
    const std::pair<int, int> place(numbers[i], clauses[numbers[i]].size() - 1);
    const uint32_t groups = CharacterTable::Get().Find(end).groups;
    if (groups == 0) {
      return Violation{place, absl::StrFormat("clause %d ends with %s, which has no level rhyme",
                                              numbers[i] + 1, Utf8(end))};
    }
    common &= groups;
    for (size_t j = 0; j < i; ++j) {
      const char32_t before = clauses[numbers[j]].back();
      if (before != end && common != 0) continue;
      return Violation{place,
                       before == end
                           ? absl::StrFormat("clauses %d and %d rhyme with the same character %s",
                                             numbers[j] + 1, numbers[i] + 1, Utf8(end))
                           : absl::StrFormat("clause %d ends with %s, which does not rhyme with %s",
                                             numbers[i] + 1, Utf8(end), Utf8(before))};
    }
  }
  return std::nullopt;
}

Verdict CheckRhymes(const std::vector<std::u32string>& clauses, const VerseForm& form,
                    bool first_line) {
  std::map<int, std::vector<int>> rhymes;
  if (first_line) rhymes[1].push_back(0);
  for (size_t i = 0; i < clauses.size(); ++i) {
    if (const int rhyme = form.clauses[i].rhyme; rhyme != 0) rhymes[rhyme].push_back(i);
  }
  Verdict first;
  for (const auto& [rhyme, numbers] : rhymes) {
    Verdict verdict = CheckRhyme(clauses, numbers);
    if (verdict && (!first || verdict->place < first->place)) first = std::move(verdict);
  }
  return first;
}

// The tones of one line of `n` syllables follow from that of its second and that of its last.
Verdict CheckLine(const std::u32string& line, int number, Tone second, Tone last) {
  const int n = static_cast<int>(line.size());
  std::vector<std::optional<Tone>> wants(n);  // none = free
  for (int i = 1; i + 1 < n; i += 2) wants[i] = i % 4 == 1 ? second : Other(second);
  wants[n - 1] = last;
  if (*wants[n - 2] == last) wants[n - 3] = Other(last);
  for (int i = 0; i < n; ++i) {
    if (!wants[i] || CanBe(line[i], *wants[i])) continue;
    return Violation{{number, i},
                     absl::StrFormat("clause %d has %s in place %d, which is not %s", number + 1,
                                     Utf8(line[i]), i + 1, NameOf(*wants[i]))};
  }
  const bool may_be_lone = *wants[n - 4] == Tone::kLevel && last == Tone::kLevel;
  if (may_be_lone && !CanBe(line[n - 5], Tone::kLevel) && !CanBe(line[n - 3], Tone::kLevel)) {
    return Violation{
        {number, n - 3},
        absl::StrFormat("clause %d has a level tone alone (孤平): %s between %s and %s", number + 1,
                        Utf8(line[n - 4]), Utf8(line[n - 5]), Utf8(line[n - 3]))};
  }
  return std::nullopt;
}

// Couplet by couplet: the second syllables are opposite within one and stick to the one before.
Verdict CheckTones(const std::vector<std::u32string>& clauses, Tone start, bool first_rhymes) {
  Tone second = start;
  for (int i = 0; i < static_cast<int>(clauses.size()); ++i) {
    const bool even = i % 2 == 1;
    if (even) second = Other(second);
    const Tone last = even || (i == 0 && first_rhymes) ? Tone::kLevel : Tone::kOblique;
    if (Verdict verdict = CheckLine(clauses[i], i, second, last)) return verdict;
  }
  return std::nullopt;
}

Verdict Earlier(Verdict a, Verdict b) { return !a || (b && b->place < a->place) ? b : a; }

// The best of the four patterns, if none is kept: the one that is kept longest.
Verdict CheckPatterns(const std::vector<std::u32string>& clauses, const VerseForm& form,
                      bool rhyme) {
  Verdict best;
  for (const Tone start : {Tone::kLevel, Tone::kOblique}) {
    for (const bool first_rhymes : {false, true}) {
      Verdict verdict = CheckTones(clauses, start, first_rhymes);
      if (rhyme) verdict = Earlier(verdict, CheckRhymes(clauses, form, first_rhymes));
      if (!verdict) return std::nullopt;
      if (!best || best->place < verdict->place) best = std::move(verdict);
    }
  }
  return best;
}

}  // namespace

absl::Status CheckPoem(std::string_view text, const VerseForm& form, PoemRules rules) {
  if (rules.tones && !form.regulated) {
    return Wrong(absl::StrFormat("%s is a tune; tones are not a rule of it", form.name));
  }
  if (rules.rhyme && !form.rhymes()) {
    return Wrong(absl::StrFormat("%s has no level rhymes", form.name));
  }
  const auto clauses = Cut(text, form);
  if (!clauses.ok()) return clauses.status();
  Verdict verdict;
  if (rules.tones) {
    verdict = CheckPatterns(*clauses, form, rules.rhyme);
  } else if (rules.rhyme) {
    verdict = CheckRhymes(*clauses, form, false);
  }
  return verdict ? Wrong(verdict->what) : absl::OkStatus();
}

absl::Status CheckCouplet(std::string_view upper_text, std::string_view lower_text,
                          CoupletRules rules) {
  std::u32string lines[2] = {Characters(upper_text), Characters(lower_text)};
  for (std::u32string& line : lines) {
    if (!line.empty() && VerseMark(line.back()) != 0) line.pop_back();
  }
  const auto& [upper, lower] = lines;
  if (upper.empty()) return Wrong("the upper line is empty");
  for (size_t i = 0, syllable = 0; i < upper.size(); ++i) {
    if (i == lower.size()) {
      return Wrong(absl::StrFormat("the lower line ends at %d places of %d", i, upper.size()));
    }
    const char32_t up = upper[i], down = lower[i];
    if (IsHan(up) != IsHan(down) || VerseMark(up) != VerseMark(down)) {
      return Wrong(absl::StrFormat("place %d: %s does not match %s", i + 1, Utf8(down), Utf8(up)));
    }
    if (!IsHan(down)) {
      if (VerseMark(down) == 0) return Wrong(absl::StrFormat("\"%s\" is not verse", Utf8(down)));
      syllable = 0;
      continue;
    }
    if (upper.find(down) != upper.npos) {
      return Wrong(absl::StrFormat("place %d: %s is in the upper line", i + 1, Utf8(down)));
    }
    ++syllable;
    const bool counts = i + 1 == upper.size() || (syllable % 2 == 0 && syllable <= 6);
    const bool opposite = (CanBe(up, Tone::kLevel) && CanBe(down, Tone::kOblique)) ||
                          (CanBe(up, Tone::kOblique) && CanBe(down, Tone::kLevel));
    if (rules.tones && counts && !opposite) {
      return Wrong(
          absl::StrFormat("place %d: %s and %s are both %s", i + 1, Utf8(up), Utf8(down),
                          NameOf(CanBe(up, Tone::kLevel) ? Tone::kLevel : Tone::kOblique)));
    }
  }
  if (lower.size() > upper.size()) {
    return Wrong(absl::StrFormat("the lower line has %d places; the upper has %d", lower.size(),
                                 upper.size()));
  }
  return absl::OkStatus();
}

}  // namespace qianyi
