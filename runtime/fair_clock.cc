#include "runtime/fair_clock.h"

#include <algorithm>

namespace qianyi {

Rank FairClock::Enter(const Turn& turn, double cost, uint64_t arrival) {
  Line& line = lines_[turn.batch ? 1 : 0];
  double& end = line.ends[turn.flow];
  const double start = std::max(line.now, end);
  end = start + cost / turn.weight;
  return {turn.batch, start, arrival};
}

void FairClock::Serve(const Rank& rank, bool batch_waits) {
  passed_ = batch_waits && !rank.batch ? passed_ + 1 : 0;
  Line& line = lines_[rank.batch ? 1 : 0];
  line.now = std::max(line.now, rank.start);
}

void FairClock::Reset() {
  passed_ = 0;
  for (Line& line : lines_) {
    line.now = 0;
    line.ends.clear();
  }
}

}  // namespace qianyi
