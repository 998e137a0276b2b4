// Means of what is measured step by step.
#pragma once

#include <cstdint>

namespace qianyi {

// Moves `mean` by the share `newest`, in (0, 1], towards `value`. A mean of 0 is not known yet and
// becomes the value.
inline void MoveMean(double value, double newest, double* mean) {
  *mean = *mean == 0.0 ? value : *mean + newest * (value - *mean);
}

// A mean that follows what changes, and is a plain one at first: a single odd value does not count
// for more because it came early.
class RunningMean {
 public:
  // `newest`: the share that a value has in the long run.
  explicit RunningMean(double newest) : newest_(newest) {}
  void Add(double value) {
    ++count_;
    mean_ += (value - mean_) * (newest_ > 1.0 / count_ ? newest_ : 1.0 / count_);
  }
  int64_t count() const { return count_; }
  double mean() const { return mean_; }  // 0 before the first

 private:
  const double newest_;
  int64_t count_ = 0;
  double mean_ = 0.0;
};

}  // namespace qianyi
