// Means of what is measured step by step.
#pragma once

namespace qianyi {

// Moves `mean` by the share `newest`, in (0, 1], towards `value`. A mean of 0 is not known yet and
// becomes the value.
inline void MoveMean(double value, double newest, double* mean) {
  *mean = *mean == 0.0 ? value : *mean + newest * (value - *mean);
}

}  // namespace qianyi
