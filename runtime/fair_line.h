// Work that waits for a place, in the order that a FairClock gives it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <utility>

#include "runtime/fair_clock.h"

namespace qianyi {

// One thread, or under one lock. T is what can be moved, and false once it has been: a pointer, an
// id above 0.
template <typename T>
class FairLine {
 public:
  bool empty() const { return waiting_.empty(); }
  int64_t size() const { return static_cast<int64_t>(waiting_.size()); }

  // `cost` is above 0, `arrival` counts up.
  void Enter(const Turn& turn, double cost, uint64_t arrival, T work) {
    waiting_.emplace(clock_.Enter(turn, cost, arrival), std::move(work));
  }
  // Whose turn it is. There must be some.
  T& Next() { return At()->second; }
  // The same, and it is out: its place has been given.
  T Serve() {
    const auto next = At();
    clock_.Serve(next->first, Batch() != waiting_.end());
    return Take(next);
  }
  // What `is_it` says, or T() when nothing here is.
  template <typename Predicate>
  T Remove(Predicate is_it) {
    const auto found = std::find_if(waiting_.begin(), waiting_.end(),
                                    [&](const auto& entry) { return is_it(entry.second); });
    return found == waiting_.end() ? T() : Take(found);
  }

 private:
  using Place = typename std::map<Rank, T>::iterator;
  Place Batch() { return waiting_.lower_bound(Rank{.batch = true}); }
  Place At() {
    const Place batch = Batch();
    return batch != waiting_.end() && clock_.BatchIsDue() ? batch : waiting_.begin();
  }
  T Take(Place place) {
    T work = std::move(place->second);
    waiting_.erase(place);
    if (waiting_.empty()) clock_.Reset();
    return work;
  }

  std::map<Rank, T> waiting_;
  FairClock clock_;
};

}  // namespace qianyi
