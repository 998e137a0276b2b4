#include <algorithm>
#include <cstdint>
#include <utility>

#include "absl/strings/str_format.h"
#include "runtime/verse/token_mask.h"
#include "runtime/verse/verse_constraint.h"
#include "runtime/verse/verse_text.h"

namespace qianyi {
namespace {

// A place of the lower line: a mark, or a character that may have these tones.
struct Slot {
  char32_t mark = 0;
  bool level = true;
  bool oblique = true;

  bool Takes(const VerseTokens::Symbol& symbol) const {
    if (mark != 0 || symbol.mark != 0) return mark == symbol.mark;
    return (level && oblique) || (level && symbol.sound.level) || (oblique && symbol.sound.oblique);
  }
};

// The upper line without the mark that closes it.
absl::StatusOr<std::u32string> ReadUpper(std::string_view text) {
  constexpr size_t kMaxCharacterBytes = 4;
  if (text.size() > 2 * kMaxCoupletCharacters * kMaxCharacterBytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("the upper line has %d bytes; it may have %d characters", text.size(),
                        kMaxCoupletCharacters));
  }
  std::u32string upper = Characters(text);
  if (!upper.empty() && VerseMark(upper.back()) != 0) upper.pop_back();
  if (upper.empty()) return absl::InvalidArgumentError("the upper line is empty");
  std::u32string wrong;
  int characters = 0;
  for (const char32_t c : upper) {
    characters += IsHan(c);
    const bool is_wrong = !IsHan(c) && VerseMark(c) == 0;
    if (is_wrong && wrong.find(c) == wrong.npos) wrong.push_back(c);
  }
  if (!wrong.empty()) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "the upper line has \"%s\"; it may have Chinese characters and punctuation", Utf8(wrong)));
  }
  if (characters > kMaxCoupletCharacters) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "the upper line has %d characters; the limit is %d", characters, kMaxCoupletCharacters));
  }
  bool after_mark = true;
  for (const char32_t c : upper) {
    if (!IsHan(c) && after_mark) {
      return absl::InvalidArgumentError(
          absl::StrFormat("in the upper line %s does not follow a character", Utf8(c)));
    }
    after_mark = !IsHan(c);
  }
  if (after_mark) return absl::InvalidArgumentError("the upper line is closed twice");
  return upper;
}

Slot Opposite(const Sound& sound) {
  const bool one = sound.level != sound.oblique;
  return {.level = !one || sound.oblique, .oblique = !one || sound.level};
}

std::vector<Slot> MakeSlots(std::u32string_view upper, CoupletRules rules) {
  std::vector<Slot> slots;
  int syllable = 0;
  for (const char32_t c : upper) {
    const char32_t mark = VerseMark(c);
    if (mark != 0) {
      slots.push_back({.mark = mark});
      syllable = 0;
      continue;
    }
    ++syllable;
    const bool last = slots.size() + 1 == upper.size();
    const bool counts = last || syllable == 2 || syllable == 4 || syllable == 6;
    const bool opposite = rules.tones && counts;
    slots.push_back(opposite ? Opposite(CharacterTable::Get().Find(c)) : Slot{});
  }
  return slots;
}

// See token_mask.h. A place does not depend on those before it.
class CoupletAutomaton {
 public:
  using State = int;  // places filled

  CoupletAutomaton(const VerseTokens& tokens, std::u32string_view upper, std::vector<Slot> slots)
      : slots_(std::move(slots)), barred_(tokens.characters().size(), false) {
    for (const char32_t c : upper) {
      const int32_t character = VerseMark(c) == 0 ? tokens.FindCharacter(c) : -1;
      if (character >= 0) barred_[character] = true;
    }
    for (int32_t token = 0; token < tokens.vocab_size(); ++token) {
      const auto text = tokens.Text(token);
      if (std::any_of(text.begin(), text.end(), [this](int32_t i) { return barred_[i]; })) {
        barred_tokens_.push_back(token);
      }
    }
  }

  State Start() const { return 0; }
  bool Done(State state) const { return state == static_cast<int>(slots_.size()); }
  bool Rhymed(State, State) const { return false; }
  bool Open(State) const { return true; }
  bool IsBarred(int32_t character) const { return barred_[character]; }

  bool Step(State* state, const VerseTokens::Symbol& symbol, int32_t) const {
    if (Done(*state) || !slots_[*state].Takes(symbol)) return false;
    ++*state;
    return true;
  }

  template <typename F>
  void ForBarred(State, F f) const {
    for (const int32_t token : barred_tokens_) f(token);
  }

 private:
  std::vector<Slot> slots_;
  std::vector<bool> barred_;            // by character: it is in the upper line
  std::vector<int32_t> barred_tokens_;  // that have such a character
};

// Every place has a token of one character.
absl::Status CheckSupply(const VerseTokens& tokens, const CoupletAutomaton& automaton,
                         const std::vector<Slot>& slots) {
  const auto characters = tokens.characters();
  for (const Slot& slot : slots) {
    bool found = false;
    for (int32_t i = 0; i < static_cast<int32_t>(characters.size()) && !found; ++i) {
      found = slot.Takes(tokens.symbols()[characters[i].symbol]) && !tokens.Alone(i).empty() &&
              !automaton.IsBarred(i);
    }
    if (found) continue;
    if (slot.mark != 0) return CheckMark(tokens, slot.mark);
    return absl::FailedPreconditionError(
        absl::StrFormat("the model's vocabulary has no %scharacter besides the upper line's",
                        slot.level && slot.oblique ? ""
                        : slot.level               ? "level "
                                                   : "oblique "));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Constraint>> MakeCoupletConstraint(const VerseTokens& tokens,
                                                                  std::string_view upper,
                                                                  CoupletRules rules,
                                                                  std::vector<int32_t> end_tokens) {
  const auto line = ReadUpper(upper);
  if (!line.ok()) return line.status();
  if (absl::Status status = CheckEndTokens(tokens, end_tokens); !status.ok()) return status;
  const std::vector<Slot> slots = MakeSlots(*line, rules);
  CoupletAutomaton automaton(tokens, *line, slots);
  if (absl::Status status = CheckSupply(tokens, automaton, slots); !status.ok()) return status;
  return std::make_unique<TokenMask<CoupletAutomaton>>(tokens, std::move(automaton),
                                                       std::move(end_tokens));
}

}  // namespace qianyi
