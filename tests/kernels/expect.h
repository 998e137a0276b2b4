// Comparisons that kernel tests share.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace qianyi::testing {

// Equal to the last bit; NaN equals NaN, since which NaN an operation gives is not fixed.
inline ::testing::AssertionResult SameBits(const std::vector<float>& a,
                                           const std::vector<float>& b) {
  if (a.empty() || a.size() != b.size()) {
    return ::testing::AssertionFailure()
           << "sizes " << a.size() << " and " << b.size()
           << " (an empty result means that memory around the output was written)";
  }
  for (size_t i = 0; i < a.size(); ++i) {
    if (std::isnan(a[i]) && std::isnan(b[i])) continue;
    if (std::bit_cast<uint32_t>(a[i]) != std::bit_cast<uint32_t>(b[i])) {
      return ::testing::AssertionFailure() << "element " << i << ": " << a[i] << " and " << b[i];
    }
  }
  return ::testing::AssertionSuccess();
}

// |a - b| <= tolerance for all elements.
inline ::testing::AssertionResult Near(const std::vector<float>& a, const std::vector<double>& b,
                                       double tolerance) {
  if (a.empty() || a.size() != b.size()) {
    return ::testing::AssertionFailure() << "sizes " << a.size() << " and " << b.size();
  }
  for (size_t i = 0; i < a.size(); ++i) {
    if (!(std::fabs(a[i] - b[i]) <= tolerance)) {
      return ::testing::AssertionFailure()
             << "element " << i << ": " << a[i] << ", expected " << b[i] << " ± " << tolerance;
    }
  }
  return ::testing::AssertionSuccess();
}

}  // namespace qianyi::testing
