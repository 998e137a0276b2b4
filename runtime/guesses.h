// Speculative decoding by prompt look-up (apoorvumang/prompt-lookup-decoding, 2023): what a
// sequence said after its last words before, it may say again. Guesses ride in one step behind the
// last token; each that the sampler then chooses itself has saved a step. Tokens are those of a run
// without guesses: a step computes every token as if it were alone, and one is sampled for each
// place in order.
#pragma once

#include <cstdint>
#include <span>

#include "absl/functional/function_ref.h"
#include "runtime/running_mean.h"

namespace qianyi {

// What followed the latest earlier occurrence of the last three tokens, or of the last two: at most
// `most`, empty when there is none. Of `tokens` themselves.
std::span<const int32_t> LookUp(std::span<const int32_t> tokens, int32_t most);
// What followed all earlier occurrences, the latest and those of three tokens first, until `visit`
// is false. What follows may come several times.
void LookUpAll(std::span<const int32_t> tokens, int32_t most,
               absl::FunctionRef<bool(std::span<const int32_t>)> visit);

// Whether guesses pay, by this engine's own steps: tokens a second with and without. One thread.
class GuessControl {
 public:
  // `always`: whether it pays or not.
  explicit GuessControl(int32_t most, bool always = false);

  // How many tokens of all sequences may be guessed in the next step.
  int32_t Allow();
  // A step of generated tokens only: of how many sequences, and what became of the guesses. `more`
  // tokens came by branches.
  void Count(int64_t sequences, int64_t guessed, int64_t accepted, int64_t more, double seconds);

  bool worthwhile() const;

 private:
  const int32_t most_;
  const bool always_;
  int32_t length_ = 4;            // of guesses at present
  uint64_t steps_ = 0;            // asked for
  RunningMean plain_, guessing_;  // tokens a second and sequence
};

// Whether branches (runtime/branches.h) pay in steps with guesses: what comes by them, beside the
// time that a step takes longer. One thread.
class BranchControl {
 public:
  explicit BranchControl(bool always = false);

  // For the next step with guesses.
  bool Allow();
  // Such a step: whether there were branches, the tokens that came of each sequence without them,
  // and the `more` that came by them.
  void Count(bool branched, double tokens, double more, double seconds);

  bool worthwhile() const;

 private:
  const bool always_;
  uint64_t steps_ = 0;                          // asked for
  RunningMean plain_seconds_, branch_seconds_;  // of a step without branches, and with
  double tokens_ = 0.0, more_ = 0.0;            // of late, in steps with branches
};

}  // namespace qianyi
