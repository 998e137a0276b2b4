#include "runtime/step_threads.h"

#include <algorithm>
#include <bit>

namespace qianyi {

StepThreads::StepThreads(int threads) {
  choices_.push_back(std::max(threads, 1));
  if (threads > 2) choices_.push_back(threads - 1);
  for (int half = threads / 2; half > 0; half /= 2) {
    if (half < choices_.back()) choices_.push_back(half);
  }
}

size_t StepThreads::KindOf(int64_t tokens) {
  const size_t digits = std::bit_width(static_cast<uint64_t>(std::max<int64_t>(tokens, 1)));
  return std::min(digits, std::tuple_size<decltype(kinds_)>() - 1);
}

int StepThreads::Of(int64_t tokens) const { return choices_[kinds_[KindOf(tokens)].current]; }

void StepThreads::Took(int64_t tokens, double seconds, double stall_seconds) {
  Kind& kind = kinds_[KindOf(tokens)];
  kind.seconds += seconds;
  kind.stall_seconds += stall_seconds;
  ++kind.steps;
  if (kind.seconds >= kWindowSeconds) EndWindow(&kind);
}

void StepThreads::EndWindow(Kind* kind) {
  const double seconds = kind->seconds / kind->steps;
  const double stall_seconds = kind->stall_seconds / kind->steps;
  kind->seconds = kind->stall_seconds = 0;
  kind->steps = 0;
  if (kind->current == kind->best) {
    const bool first = kind->best_seconds == 0;
    kind->best_seconds = first ? seconds : (kind->best_seconds + seconds) / 2;
    kind->best_stall_seconds =
        first ? stall_seconds : (kind->best_stall_seconds + stall_seconds) / 2;
    if (--kind->windows_left <= 0) TryAnother(kind);
    return;
  }
  const bool faster = seconds < kGain * kind->best_seconds;
  if (faster) {
    kind->fewer_next = kind->current > kind->best;  // on in the same direction
    kind->best = kind->current;
    kind->best_seconds = seconds;
    kind->best_stall_seconds = stall_seconds;
  } else {
    kind->current = kind->best;
  }
  kind->windows_left = faster ? kWindowsOfNew : kWindowsOfBest;
}

void StepThreads::TryAnother(Kind* kind) const {
  kind->windows_left = kWindowsOfBest;
  for (int direction = 0; direction < 2; ++direction) {
    const bool fewer = kind->fewer_next;
    kind->fewer_next = !fewer;
    if (!fewer && kind->best == 0) continue;
    const size_t other = fewer ? kind->best + 1 : kind->best - 1;
    if (other >= choices_.size() || (fewer && !HasRoom(*kind, other))) continue;
    kind->current = other;
    return;
  }
}

// Whether what is computed would still fit into the time that the step takes now, more or less.
bool StepThreads::HasRoom(const Kind& kind, size_t choice) const {
  const double work = (kind.best_seconds - kind.best_stall_seconds) * choices_[kind.best];
  return work <= kRoom * kind.best_seconds * choices_[choice];
}

}  // namespace qianyi
