#include "runtime/verse/verse_form.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "absl/strings/str_format.h"
#include "runtime/verse/split_fields.h"
#include "runtime/verse/verse_text.h"

namespace qianyi {

extern const std::string_view kEmbeddedTunes;

namespace {

constexpr int kMaxClauseLength = 32;
constexpr std::string_view kAliases[][2] = {
    {"五言绝句", "五绝"}, {"五絕", "五绝"},     {"五言絕句", "五绝"}, {"七言绝句", "七绝"},
    {"七絕", "七绝"},     {"七言絕句", "七绝"}, {"五言律诗", "五律"}, {"五言律詩", "五律"},
    {"七言律诗", "七律"}, {"七言律詩", "七律"}};

VerseForm Regulated(std::string_view name, int lines, int length) {
  VerseForm form{.name = std::string(name), .clauses = {}, .regulated = true};
  for (int line = 0; line < lines; ++line) {
    const bool even = line % 2 == 1;
    form.clauses.push_back({length, even ? U'。' : U'，', even ? 1 : 0});
  }
  return form;
}

const std::vector<VerseForm>& Forms() {
  static const auto* const forms = [] {
    auto* const list = new std::vector<VerseForm>{Regulated("五绝", 4, 5), Regulated("七绝", 4, 7),
                                                  Regulated("五律", 8, 5), Regulated("七律", 8, 7)};
    auto tunes = ParseTunes(kEmbeddedTunes);
    if (!tunes.ok()) {  // built into the program: our mistake, not the world's
      std::fprintf(stderr, "tunes.tsv: %s\n", tunes.status().ToString().c_str());
      std::abort();
    }
    for (VerseForm& tune : *tunes) list->push_back(std::move(tune));
    return list;
  }();
  return *forms;
}

// "7，7。7。" into clauses that do not rhyme yet.
absl::StatusOr<std::vector<VerseClause>> ParsePattern(std::string_view pattern) {
  std::vector<VerseClause> clauses;
  int length = 0;
  for (const char32_t c : Characters(pattern)) {
    if (c >= U'0' && c <= U'9' && length <= kMaxClauseLength) {
      length = length * 10 + static_cast<int>(c - U'0');
    } else if ((c == U'，' || c == U'。' || c == U'、') && length > 0 &&
               length <= kMaxClauseLength) {
      clauses.push_back({length, c, 0});
      length = 0;
    } else {
      clauses.clear();
      break;
    }
  }
  if (clauses.empty() || length != 0) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "pattern \"%s\"; it must be lengths of 1..%d, each with ， 。 or 、 behind it", pattern,
        kMaxClauseLength));
  }
  return clauses;
}

absl::Status ParseRhymes(std::string_view letters, std::vector<VerseClause>* clauses) {
  const bool right = letters.size() == clauses->size() &&
                     std::all_of(letters.begin(), letters.end(), [](char letter) {
                       return letter == '-' || (letter >= 'a' && letter <= 'z');
                     });
  if (!right) {
    return absl::InvalidArgumentError(
        absl::StrFormat("rhymes \"%s\"; they must be a letter or - for each of %d clauses", letters,
                        clauses->size()));
  }
  int latest = 0;
  for (size_t i = 0; i < letters.size(); ++i) {
    const int rhyme = letters[i] == '-' ? 0 : letters[i] - 'a' + 1;
    if (rhyme != 0 && rhyme < latest) {  // whoever follows a rhyme may forget the one before
      return absl::InvalidArgumentError(
          absl::StrFormat("rhymes \"%s\" go back to an earlier one", letters));
    }
    latest = std::max(latest, rhyme);
    (*clauses)[i].rhyme = rhyme;
  }
  return absl::OkStatus();
}

absl::StatusOr<VerseForm> ParseTune(std::string_view line) {
  const std::vector<std::string_view> fields = Split(line, '\t');
  if (fields.size() != 4) {
    return absl::InvalidArgumentError(absl::StrFormat("%d fields instead of 4", fields.size()));
  }
  const std::u32string name = Characters(fields[0]);
  if (name.empty() || !std::all_of(name.begin(), name.end(), IsHan)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("\"%s\" is not a name in Chinese characters", fields[0]));
  }
  auto clauses = ParsePattern(fields[1]);
  if (!clauses.ok()) return clauses.status();
  const absl::Status rhymes = ParseRhymes(fields[3], &*clauses);
  if (!rhymes.ok()) return rhymes;
  return VerseForm{std::string(fields[0]), *std::move(clauses), false};
}

absl::Status UnknownForm(std::string_view name) {
  constexpr size_t kShown = 16;
  const std::u32string characters = Characters(name.substr(0, 8 * kShown));
  std::string shown = Utf8(std::u32string_view(characters).substr(0, kShown));
  if (characters.size() > kShown) shown += "…";
  std::string some;
  for (int i = 0; i < 10; ++i) some += Forms()[i].name + ", ";
  return absl::InvalidArgumentError(absl::StrFormat(
      "form \"%s\" is not known; there are %sand %d more", shown, some, Forms().size() - 10));
}

}  // namespace

bool VerseForm::rhymes() const {
  return std::any_of(clauses.begin(), clauses.end(),
                     [](const VerseClause& clause) { return clause.rhyme != 0; });
}

int VerseForm::characters() const {
  int sum = 0;
  for (const VerseClause& clause : clauses) sum += clause.length;
  return sum;
}

absl::StatusOr<std::vector<VerseForm>> ParseTunes(std::string_view tsv) {
  std::vector<VerseForm> tunes;
  int number = 0;
  for (const std::string_view line : Split(tsv, '\n')) {
    ++number;
    if (line.empty() || line[0] == '#') continue;
    auto tune = ParseTune(line);
    if (!tune.ok()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("line %d: %s", number, tune.status().message()));
    }
    const bool twice = std::any_of(tunes.begin(), tunes.end(), [&](const VerseForm& other) {
      return other.name == tune->name;
    });
    if (twice) {
      return absl::InvalidArgumentError(
          absl::StrFormat("line %d: %s is there twice", number, tune->name));
    }
    tunes.push_back(*std::move(tune));
  }
  return tunes;
}

absl::StatusOr<VerseForm> FindVerseForm(std::string_view name) {
  std::string_view wanted = name;
  for (const auto& [alias, same] : kAliases) {
    if (name == alias) wanted = same;
  }
  for (const VerseForm& form : Forms()) {
    if (form.name == wanted) return form;
  }
  return UnknownForm(name);
}

const std::vector<std::string>& VerseFormNames() {
  static const auto* const names = [] {
    auto* const list = new std::vector<std::string>;
    for (const VerseForm& form : Forms()) list->push_back(form.name);
    return list;
  }();
  return *names;
}

}  // namespace qianyi
