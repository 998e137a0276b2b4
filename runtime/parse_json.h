// JSON from outside: never throws, and never so deep that walking it could exhaust the stack.
#pragma once

#include <string_view>

#include "nlohmann/json.hpp"

namespace qianyi {

inline constexpr int kMaxJsonDepth = 64;

// Whether brackets nest deeper than kMaxJsonDepth. Copying, comparing and printing a value recurse.
bool NestsTooDeep(std::string_view text);

// The value, or a discarded one (`is_discarded()`) when `text` is not valid JSON or nests too
// deep.
nlohmann::json ParseJson(std::string_view text);

}  // namespace qianyi
