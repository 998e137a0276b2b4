#include "runtime/page_worth.h"

#include <algorithm>

#include "kernels/kv_layer.h"
#include "runtime/running_mean.h"

namespace qianyi {
namespace {

constexpr double kNewest = 1.0 / 16;  // of a running mean

}  // namespace

void PageWorth::Count(int64_t prompt_tokens, double seconds, uint64_t read_bytes) {
  const double bytes = static_cast<double>(read_bytes - read_bytes_);
  read_bytes_ = read_bytes;
  if (prompt_tokens == 0) {
    MoveMean(seconds, kNewest, &plain_seconds_);
    MoveMean(bytes, kNewest, &plain_bytes_);
  } else {
    MoveMean(std::max(0.0, seconds - plain_seconds_) / static_cast<double>(prompt_tokens), kNewest,
             &token_seconds_);
  }
}

int64_t PageWorth::steps() const {
  if (plain_bytes_ == 0 || plain_seconds_ == 0 || token_seconds_ == 0) return kAlways;
  const double saved_seconds = kPageTokens * token_seconds_;
  const double step_cost = static_cast<double>(page_bytes_) * plain_seconds_ / plain_bytes_;
  return static_cast<int64_t>(std::min(1e15, saved_seconds / step_cost)) + 1;
}

}  // namespace qianyi
