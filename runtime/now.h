// The clock that intervals are measured with.
#pragma once

#include <chrono>
#include <cstdint>

namespace qianyi {

// Monotonic.
inline int64_t NowNanoseconds() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace qianyi
