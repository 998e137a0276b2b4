// The time as answers carry it in `created`.
#pragma once

#include <chrono>
#include <cstdint>

namespace qianyi {

// Seconds since 1970, by the system's clock.
inline int64_t UnixSeconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

}  // namespace qianyi
