#include "runtime/compute_share.h"

#include <algorithm>

#include "runtime/now.h"

namespace qianyi {
namespace {

// Turns are handed on after this long at the earliest: a change of threads costs microseconds.
constexpr int64_t kLeastNanoseconds = 200'000;
}  // namespace

int TurnRule::Add(double weight) {
  members_.push_back({.weight = weight, .used = now_});
  return static_cast<int>(members_.size()) - 1;
}

void TurnRule::Want(int member) {
  Member& one = members_[member];
  one.wants = true;
  one.used = std::max(one.used, now_ - kCreditNanoseconds / one.weight);
}

int TurnRule::Next() const {
  int next = -1;
  for (size_t i = 0; i < members_.size(); ++i) {
    if (!members_[i].wants) continue;
    if (next < 0 || members_[i].used < members_[next].used) next = static_cast<int>(i);
  }
  return next;
}

void TurnRule::Begin(int member) {
  members_[member].wants = false;
  now_ = std::max(now_, members_[member].used);
}

void TurnRule::Charge(int member, int64_t nanoseconds) {
  members_[member].used += static_cast<double>(nanoseconds) / members_[member].weight;
}

ComputeShare::Member* ComputeShare::Add(double weight) {
  std::lock_guard lock(mutex_);
  members_.emplace_back(new Member(this, rule_.Add(weight), weight));
  return members_.back().get();
}

void ComputeShare::Grant() {
  const int next = rule_.Next();
  if (next < 0) return;
  rule_.Begin(next);
  holder_ = next;
  members_[next]->turn_.notify_one();
}

void ComputeShare::Member::Wait(std::unique_lock<std::mutex>& lock) {
  const int64_t begin = NowNanoseconds();
  share_.rule_.Want(index_);
  if (share_.holder_ < 0) share_.Grant();
  turn_.wait(lock, [this] { return share_.holder_ == index_; });
  since_ = NowNanoseconds();
  stats_.wait_seconds += (since_ - begin) * 1e-9;
}

void ComputeShare::Member::Charge() {
  const int64_t now = NowNanoseconds();
  share_.rule_.Charge(index_, now - since_);
  stats_.seconds += (now - since_) * 1e-9;
  since_ = now;
}

void ComputeShare::Member::Enter() {
  std::unique_lock lock(share_.mutex_);
  Wait(lock);
}

void ComputeShare::Member::Leave() {
  std::lock_guard lock(share_.mutex_);
  Charge();
  share_.holder_ = -1;
  share_.Grant();
}

void ComputeShare::Member::Yield() {
  if (NowNanoseconds() - since_ < kLeastNanoseconds) return;
  std::unique_lock lock(share_.mutex_);
  Charge();
  if (share_.rule_.Next() < 0) return;
  share_.holder_ = -1;
  Wait(lock);
}

ComputeShare::Stats ComputeShare::Member::stats() const {
  std::lock_guard lock(share_.mutex_);
  return stats_;
}

}  // namespace qianyi
