#include "runtime/storage/read_ahead.h"

#include <algorithm>
#include <utility>

#include "runtime/storage/reader.h"

namespace qianyi {

ReadAhead::ReadAhead(std::vector<Shape> shapes)
    : shapes_(std::move(shapes)), rates_(shapes_.size(), 0) {}

std::vector<ReadAhead::Shape> ReadAhead::Shapes(int depth) {
  return {{std::min(depth, 2), kReadChunkBytes}, {depth, 16 * kReadChunkBytes}};
}

void ReadAhead::Came(uint64_t bytes, double seconds) {
  if (settle_bytes_ > 0) {
    settle_bytes_ -= std::min(settle_bytes_, bytes);
    window_begin_ = -1;
    if (settle_bytes_ > 0) return;
  }
  if (window_begin_ < 0) {
    window_begin_ = seconds;
    window_bytes_ = 0;
    return;
  }
  window_bytes_ += bytes;
  if (window_bytes_ < kWindowBytes || seconds <= window_begin_) return;
  EndWindow(window_bytes_ / (seconds - window_begin_));
  window_begin_ = -1;
}

// The best has many windows; then the others are tried in turn, each for one.
void ReadAhead::EndWindow(double rate) {
  double& known = rates_[current_];
  known = known == 0 ? rate : (known + rate) / 2;
  const size_t before = current_;
  if (current_ == best_ && --windows_left_ > 0) return;
  current_ = (current_ + 1) % shapes_.size();
  if (current_ == best_) {
    best_ = static_cast<size_t>(std::max_element(rates_.begin(), rates_.end()) - rates_.begin());
    current_ = best_;
    windows_left_ = kWindowsOfBest;
  }
  if (current_ != before) settle_bytes_ = kSettleBytes;
}

}  // namespace qianyi
