// From what may come next, character by character, to the logits of tokens. Shared by the
// constraints of this folder.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "runtime/constraint.h"
#include "runtime/verse/verse_tokens.h"

namespace qianyi {

// InvalidArgument when there is no end token, or one of them is negative or writes verse itself.
absl::Status CheckEndTokens(const VerseTokens& tokens, std::span<const int32_t> end_tokens);
// FailedPrecondition when `mark` is not a token of its own.
absl::Status CheckMark(const VerseTokens& tokens, char32_t mark);

// An Automaton has, besides a State that is cheap to copy:
//   State Start();
//   bool Done(const State&);           the text is complete
//   bool Step(State*, const VerseTokens::Symbol&, int32_t character);
//       takes one character; false when it may not come next. kAnyCharacter: some character of
//       the symbol, without asking which. May keep notes about characters outside the State,
//       behind what earlier States refer to.
//   bool Rhymed(const State& before, const State& after);
//       a rhyme lies between: rhyme groups and characters matter
//   bool Open(const State&);           tokens of one character can lead from here to the end
//   void ForBarred(const State&, f);   calls f with tokens that may not come next although others
//                                      of their class may, rhymes of several characters aside
// Whatever Mask leaves leads to an Open state, so that it can always leave something.
inline constexpr int32_t kAnyCharacter = -1;

template <typename Automaton>
class TokenMask final : public Constraint {
  using State = typename Automaton::State;

 public:
  TokenMask(const VerseTokens& tokens, Automaton automaton, std::vector<int32_t> end_tokens)
      : tokens_(tokens),
        automaton_(std::move(automaton)),
        state_(automaton_.Start()),
        end_tokens_(std::move(end_tokens)),
        end_logits_(end_tokens_.size()),
        verdicts_(tokens.classes()),
        keep_(tokens.classes()) {}

  void Mask(std::span<float> logits) override {
    if (broken_ || automaton_.Done(state_)) return KeepEnds(logits);
    const bool to_try = JudgeClasses();
    const std::span<const VerseTokens::Class> classes = tokens_.token_classes();
    const size_t known = std::min(logits.size(), classes.size());
    for (size_t id = 0; id < known; ++id) {  // half go, in no order: a branch would cost more
      const uint32_t keep = keep_[classes[id]], bits = std::bit_cast<uint32_t>(logits[id]);
      logits[id] = std::bit_cast<float>((bits & keep) | (std::bit_cast<uint32_t>(kOut) & ~keep));
    }
    std::fill(logits.begin() + known, logits.end(), kOut);
    for (const int32_t token : to_try ? tokens_.several() : std::span<const int32_t>()) {
      if (static_cast<size_t>(token) >= known) break;
      if (verdicts_[classes[token]] == Verdict::kTry && !Fits(token)) logits[token] = kOut;
    }
    automaton_.ForBarred(state_, [&](int32_t token) {
      if (static_cast<size_t>(token) < known) logits[token] = kOut;
    });
  }

  // A token that Mask took away comes only when no other had a number for a logit: the text can
  // then just end.
  void Accept(int32_t token) override {
    const std::span<const int32_t> text = tokens_.Text(token);
    broken_ = broken_ || text.empty();
    for (const int32_t character : text) {
      broken_ = broken_ || !automaton_.Step(&state_, SymbolOf(character), character);
    }
  }

 private:
  static constexpr float kOut = -std::numeric_limits<float>::infinity();

  const VerseTokens::Symbol& SymbolOf(int32_t character) const {
    return tokens_.symbols()[tokens_.characters()[character].symbol];
  }

  enum class Verdict : uint8_t { kOut, kIn, kTry };

  // True when there are classes whose tokens must be tried one by one.
  bool JudgeClasses() {
    const int symbols = static_cast<int>(tokens_.symbols().size());
    bool to_try = false;
    for (int i = VerseTokens::kNever + 1; i < tokens_.classes(); ++i) {
      verdicts_[i] = i < symbols ? JudgeSymbol(tokens_.symbols()[i]) : JudgeShape(tokens_.Shape(i));
      keep_[i] = verdicts_[i] == Verdict::kOut ? 0 : ~uint32_t{0};
      to_try = to_try || verdicts_[i] == Verdict::kTry;
    }
    return to_try;
  }

  Verdict JudgeSymbol(const VerseTokens::Symbol& symbol) {
    State state = state_;
    const bool in = automaton_.Step(&state, symbol, kAnyCharacter) && automaton_.Open(state);
    return in ? Verdict::kIn : Verdict::kOut;
  }

  Verdict JudgeShape(std::span<const uint8_t> shape) {
    State state = state_;
    for (const uint8_t symbol : shape) {
      if (!automaton_.Step(&state, tokens_.shape_symbols()[symbol], kAnyCharacter)) {
        return Verdict::kOut;
      }
    }
    if (automaton_.Rhymed(state_, state)) return Verdict::kTry;
    return automaton_.Open(state) ? Verdict::kIn : Verdict::kOut;
  }

  bool Fits(int32_t token) {
    State state = state_;
    for (const int32_t character : tokens_.Text(token)) {
      if (!automaton_.Step(&state, SymbolOf(character), character)) return false;
    }
    return automaton_.Open(state);
  }

  void KeepEnds(std::span<float> logits) {
    for (size_t i = 0; i < end_tokens_.size(); ++i) {
      const size_t end = static_cast<size_t>(end_tokens_[i]);
      end_logits_[i] = end < logits.size() ? logits[end] : kOut;
    }
    std::fill(logits.begin(), logits.end(), kOut);
    for (size_t i = 0; i < end_tokens_.size(); ++i) {
      const size_t end = static_cast<size_t>(end_tokens_[i]);
      if (end < logits.size()) logits[end] = end_logits_[i];
    }
  }

  const VerseTokens& tokens_;
  Automaton automaton_;
  State state_;
  bool broken_ = false;
  const std::vector<int32_t> end_tokens_;
  std::vector<float> end_logits_;
  std::vector<Verdict> verdicts_;  // by class
  std::vector<uint32_t> keep_;     // the bits of a logit that stay: all or none
};

}  // namespace qianyi
