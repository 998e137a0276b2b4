// Values that arithmetic gives and nobody wants.
#pragma once

#include <limits>

namespace qianyi::testing {

inline constexpr float kInfinity = std::numeric_limits<float>::infinity();
inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

}  // namespace qianyi::testing
