#include <algorithm>
#include <cstdint>
#include <utility>

#include "absl/strings/str_format.h"
#include "runtime/verse/token_mask.h"
#include "runtime/verse/tone_patterns.h"
#include "runtime/verse/verse_constraint.h"

namespace qianyi {
namespace {

// A form under its rules.
struct Score {
  std::vector<VerseClause> clauses;  // their rhyme is 0 where the rules ask for none
  bool rhyme = false;
  TonePatterns patterns = kAllPatterns;  // possible at the start
  std::vector<ToneSlot> tones;           // by syllable, all in a row; empty without that rule
};

// See token_mask.h.
class PoemAutomaton {
 public:
  struct State {
    int16_t clause = 0;
    int16_t syllable = 0;
    TonePatterns patterns = 0;
    int16_t rhyme = 0;       // the one in use, 0 before the first
    int16_t used_begin = 0;  // characters that rhymed in it
    int16_t used_end = 0;
    uint32_t groups = 0;  // that all of them are in
  };

  PoemAutomaton(const VerseTokens& tokens, Score score);

  State Start() const { return {.patterns = score_.patterns}; }
  bool Done(const State& state) const {
    return state.clause == static_cast<int>(score_.clauses.size());
  }
  bool Step(State* state, const VerseTokens::Symbol& symbol, int32_t character);
  bool Open(const State& state) const;
  bool Rhymed(const State& before, const State& after) const {
    return before.used_end != after.used_end;
  }
  template <typename F>
  void ForBarred(const State& state, F f) const;

 private:
  bool KeepsTones(State* state, const Sound& sound) const;
  bool EndsClause(State* state, const Sound& sound, int32_t character);

  const VerseTokens& tokens_;
  const Score score_;
  // By clause: how many from it on have the rhyme that was in use before it.
  std::vector<int> rhymes_left_;
  std::vector<int32_t> used_;          // rhyming characters, in order
  std::vector<uint32_t> used_supply_;  // the groups in whose supply each is counted
};

PoemAutomaton::PoemAutomaton(const VerseTokens& tokens, Score score)
    : tokens_(tokens),
      score_(std::move(score)),
      rhymes_left_(score_.clauses.size() + 1, 0),
      used_(score_.clauses.size() + 1),
      used_supply_(score_.clauses.size() + 1) {
  int before = 1;  // a first line that rhymes has the first rhyme
  for (size_t i = 0; i < score_.clauses.size(); ++i) {
    for (size_t j = i; j < score_.clauses.size(); ++j) {
      rhymes_left_[i] += score_.clauses[j].rhyme == before;
    }
    if (score_.clauses[i].rhyme != 0) before = score_.clauses[i].rhyme;
  }
}

bool PoemAutomaton::Step(State* state, const VerseTokens::Symbol& symbol, int32_t character) {
  if (Done(*state)) return false;
  const VerseClause& clause = score_.clauses[state->clause];
  if (state->syllable == clause.length) {
    if (symbol.mark != clause.mark) return false;
    ++state->clause;
    state->syllable = 0;
    state->patterns = NextLine(state->patterns);
    return true;
  }
  if (symbol.mark != 0 || !KeepsTones(state, symbol.sound)) return false;
  ++state->syllable;
  return state->syllable < clause.length || EndsClause(state, symbol.sound, character);
}

bool PoemAutomaton::KeepsTones(State* state, const Sound& sound) const {
  if (score_.tones.empty()) return true;
  const int length = score_.clauses[0].length;  // regulated verse: of every line
  const ToneSlot& slot = score_.tones[state->clause * length + state->syllable];
  TonePatterns fitting = slot.level & slot.oblique;
  if (sound.level) fitting |= slot.level;
  if (sound.oblique) fitting |= slot.oblique;
  state->patterns &= fitting;
  return state->patterns != 0;
}

bool PoemAutomaton::EndsClause(State* state, const Sound& sound, int32_t character) {
  int rhyme = score_.clauses[state->clause].rhyme;
  if (!score_.tones.empty() && state->clause == 0) {
    // A character of either tone can leave both kinds of pattern possible. Going on without the
    // rhyme decides it, at the price of some poems that would be right too.
    const TonePatterns plain = state->patterns & ~kFirstLineRhymes;
    if (plain != 0) {
      state->patterns = plain;
    } else {
      rhyme = score_.rhyme ? 1 : 0;
    }
  }
  if (rhyme == 0) return true;
  if (rhyme != state->rhyme) {
    state->rhyme = static_cast<int16_t>(rhyme);
    state->used_begin = state->used_end;
    state->groups = ~uint32_t{0};
  }
  state->groups &= sound.groups;
  const auto begin = used_.begin() + state->used_begin, end = used_.begin() + state->used_end;
  if (state->groups == 0 || (character != kAnyCharacter && std::find(begin, end, character) != end))
    return false;
  const bool alone = character == kAnyCharacter || !tokens_.Alone(character).empty();
  used_[state->used_end] = character;
  used_supply_[state->used_end] = alone ? sound.groups : 0;
  ++state->used_end;
  return true;
}

// Tones always have a way on: each pattern left can be finished, and level and oblique characters
// do not run out. Rhyming characters do.
bool PoemAutomaton::Open(const State& state) const {
  if (state.used_begin == state.used_end || Done(state)) return true;
  const bool ended = state.syllable == score_.clauses[state.clause].length;
  const int needed = rhymes_left_[state.clause + (ended ? 1 : 0)];
  if (needed == 0) return true;
  for (int group = 0; group < CharacterTable::kMaxGroups; ++group) {
    if ((state.groups >> group & 1) == 0) continue;
    int left = tokens_.supply().rhymes[group];
    for (int i = state.used_begin; i < state.used_end; ++i) left -= used_supply_[i] >> group & 1;
    if (left >= needed) return true;
  }
  return false;
}

template <typename F>
void PoemAutomaton::ForBarred(const State& state, F f) const {
  const VerseClause& clause = score_.clauses[state.clause];
  if (state.syllable + 1 != clause.length || clause.rhyme != state.rhyme) return;
  for (int i = state.used_begin; i < state.used_end; ++i) {
    for (const int32_t token : tokens_.Alone(used_[i])) f(token);
  }
}

absl::Status CheckRules(const VerseForm& form, PoemRules rules) {
  if (form.clauses.empty()) return absl::InvalidArgumentError("the form has no clauses");
  if (rules.tones && !form.regulated) {
    return absl::InvalidArgumentError(
        absl::StrFormat("tones are a rule of 五绝, 七绝, 五律 and 七律; %s is a tune", form.name));
  }
  if (rules.rhyme && !form.rhymes()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s rhymes on oblique tones, which no rule covers", form.name));
  }
  return absl::OkStatus();
}

// Each rhyme, to its number of clauses.
std::vector<int> CountRhymes(const VerseForm& form) {
  std::vector<int> counts;
  for (const VerseClause& clause : form.clauses) {
    counts.resize(std::max<size_t>(counts.size(), clause.rhyme + 1));
    ++counts[clause.rhyme];
  }
  counts[0] = 0;  // clauses that do not rhyme
  return counts;
}

absl::Status CheckSupply(const VerseTokens& tokens, const VerseForm& form, PoemRules rules) {
  for (const VerseClause& clause : form.clauses) {
    if (const absl::Status status = CheckMark(tokens, clause.mark); !status.ok()) return status;
  }
  const VerseTokens::Supply& supply = tokens.supply();
  if (supply.characters == 0 || (rules.tones && (supply.level == 0 || supply.oblique == 0))) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "the model's vocabulary has %d Chinese characters as tokens, %d level and %d oblique",
        supply.characters, supply.level, supply.oblique));
  }
  const int most = *std::max_element(supply.rhymes.begin(), supply.rhymes.end());
  const std::vector<int> counts = CountRhymes(form);
  const int needed = *std::max_element(counts.begin(), counts.end());
  if (rules.rhyme && needed > most) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "%s rhymes %d times; the model's vocabulary has at most %d characters that rhyme",
        form.name, needed, most));
  }
  return absl::OkStatus();
}

Score MakeScore(const VerseTokens& tokens, const VerseForm& form, PoemRules rules) {
  Score score{.clauses = form.clauses, .rhyme = rules.rhyme, .tones = {}};
  if (!rules.rhyme) {
    for (VerseClause& clause : score.clauses) clause.rhyme = 0;
  }
  if (rules.tones) {
    const int lines = static_cast<int>(form.clauses.size());
    score.tones = ToneSlots(lines, form.clauses[0].length);
    const auto& rhymes = tokens.supply().rhymes;
    const bool enough = *std::max_element(rhymes.begin(), rhymes.end()) > CountRhymes(form)[1];
    if (rules.rhyme && !enough) score.patterns &= ~kFirstLineRhymes;
  }
  return score;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Constraint>> MakePoemConstraint(const VerseTokens& tokens,
                                                               const VerseForm& form,
                                                               PoemRules rules,
                                                               std::vector<int32_t> end_tokens) {
  for (const absl::Status& status : {CheckRules(form, rules), CheckEndTokens(tokens, end_tokens)}) {
    if (!status.ok()) return status;
  }
  if (absl::Status status = CheckSupply(tokens, form, rules); !status.ok()) return status;
  return std::make_unique<TokenMask<PoemAutomaton>>(
      tokens, PoemAutomaton(tokens, MakeScore(tokens, form, rules)), std::move(end_tokens));
}

}  // namespace qianyi
