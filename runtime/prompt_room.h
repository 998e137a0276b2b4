// How many tokens of prompts ride in a step in which others generate.
#pragma once

#include <cstdint>

namespace qianyi {

// Whoever generates waits for the whole step. Tokens of prompts that ride along cost it nothing as
// long as it waits for weights, from disk or from memory, and their products from then on. So the
// room is what keeps such a step below `stretch` times one without prompts, by what steps were
// measured to take; where nobody generates, prompts have all there is. Pure.
class PromptRoom {
 public:
  static constexpr int64_t kLeast = 16;  // a product of fewer wastes what it reads

  // `most` tokens in any step. `stretch` 0, or contexts that are atomic: always all of them.
  PromptRoom(int64_t most, double stretch, bool atomic_contexts)
      : most_(most), stretch_(atomic_contexts ? 0 : stretch) {}

  int64_t most() const { return most_; }
  // For the next step, in which `generating` sequences take a token each.
  int64_t Of(int64_t generating);
  // That step took `seconds`, with so many tokens of prompts.
  void Took(int64_t prompt_tokens, double seconds);

 private:
  const int64_t most_;
  const double stretch_;
  int64_t generating_ = 0;
  // Running means; 0: not known yet.
  double plain_seconds_ = 0;  // of a step without prompts
  double token_seconds_ = 0;  // that a token of a prompt adds
};

}  // namespace qianyi
