#include "runtime/prompt_room.h"

#include <algorithm>

#include "runtime/running_mean.h"

namespace qianyi {
namespace {

constexpr double kNewest = 1.0 / 4;  // of a running mean: who generates changes often

}  // namespace

int64_t PromptRoom::Of(int64_t generating) {
  generating_ = generating;
  if (generating == 0 || stretch_ == 0 || plain_seconds_ == 0) return most_;
  const double more_seconds = (stretch_ - 1) * plain_seconds_;
  if (token_seconds_ * static_cast<double>(most_) <= more_seconds) return most_;
  const int64_t room = static_cast<int64_t>(more_seconds / token_seconds_);
  return std::clamp(room, std::min(kLeast, most_), most_);
}

void PromptRoom::Took(int64_t prompt_tokens, double seconds) {
  if (prompt_tokens == 0) {
    if (generating_ > 0) MoveMean(seconds, kNewest, &plain_seconds_);
  } else if (generating_ > 0) {
    MoveMean(std::max(0.0, seconds - plain_seconds_) / static_cast<double>(prompt_tokens), kNewest,
             &token_seconds_);
  } else if (token_seconds_ == 0) {
    // At most so much: reading the weights is in it, but for many tokens it is little.
    token_seconds_ = seconds / static_cast<double>(prompt_tokens);
  }
}

}  // namespace qianyi
