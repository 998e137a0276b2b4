// What a server says of itself.
#pragma once

#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace qianyi {

// "0.1.0"
std::string_view ServerVersion();
// The most that requests may ask for, by parameter.
const std::vector<std::pair<std::string_view, int64_t>>& RequestLimits();

}  // namespace qianyi
