#include "runtime/guesses.h"

#include <algorithm>

namespace qianyi {
namespace {

constexpr int32_t kLongestKey = 3, kShortestKey = 2;  // one token alone says too little
constexpr int32_t kShortest = 2;                      // guesses
constexpr uint64_t kProbeEvery = 64;                  // steps, of which one is made the other way
constexpr double kNewShare = 0.2;                     // of a step in the running means
constexpr int64_t kPlainFirst = 3, kTriedFirst = 8;   // steps before anything is judged
constexpr double kRemembered = 0.95;                  // of what came, from step to step

}  // namespace

std::span<const int32_t> LookUp(std::span<const int32_t> tokens, int32_t most) {
  std::span<const int32_t> found;
  LookUpAll(tokens, most, [&found](std::span<const int32_t> following) {
    found = following;
    return false;
  });
  return found;
}

void LookUpAll(std::span<const int32_t> tokens, int32_t most,
               absl::FunctionRef<bool(std::span<const int32_t>)> visit) {
  const int64_t size = static_cast<int64_t>(tokens.size());
  for (int32_t key = kLongestKey; key >= kShortestKey; --key) {
    const auto last = tokens.last(std::min<int64_t>(key, size));
    for (int64_t at = size - key - 1; at >= 0; --at) {
      if (!std::equal(last.begin(), last.end(), tokens.begin() + at)) continue;
      if (!visit(tokens.subspan(at + key, std::min<int64_t>(most, size - at - key)))) return;
    }
  }
}

GuessControl::GuessControl(int32_t most, bool always)
    : most_(most), always_(always), plain_(kNewShare), guessing_(kNewShare) {}

bool GuessControl::worthwhile() const {
  return guessing_.count() < kTriedFirst || guessing_.mean() >= plain_.mean();
}

int32_t GuessControl::Allow() {
  if (always_) return most_;
  if (most_ == 0 || plain_.count() < kPlainFirst) return 0;
  const bool probes = ++steps_ % kProbeEvery == 0;
  return worthwhile() != probes ? std::min(length_, most_) : 0;
}

void GuessControl::Count(int64_t sequences, int64_t guessed, int64_t accepted, int64_t more,
                         double seconds) {
  if (sequences == 0 || seconds <= 0.0) return;
  const double tokens = 1.0 + static_cast<double>(accepted + more) / static_cast<double>(sequences);
  (guessed == 0 ? plain_ : guessing_).Add(tokens / seconds);
  if (guessed == 0) return;
  length_ = accepted == guessed ? std::min(2 * length_, std::max(most_, kShortest))
                                : std::max(length_ - 1, kShortest);
}

BranchControl::BranchControl(bool always)
    : always_(always), plain_seconds_(kNewShare), branch_seconds_(kNewShare) {}

bool BranchControl::worthwhile() const {
  return branch_seconds_.count() < kTriedFirst ||
         (tokens_ + more_) * plain_seconds_.mean() >= tokens_ * branch_seconds_.mean();
}

bool BranchControl::Allow() {
  if (always_) return true;
  if (plain_seconds_.count() < kPlainFirst) return false;
  const bool probes = ++steps_ % kProbeEvery == 0;
  return worthwhile() != probes;
}

void BranchControl::Count(bool branched, double tokens, double more, double seconds) {
  if (seconds <= 0.0) return;
  (branched ? branch_seconds_ : plain_seconds_).Add(seconds);
  if (!branched) return;
  tokens_ = kRemembered * tokens_ + tokens;
  more_ = kRemembered * more_ + more;
}

}  // namespace qianyi
