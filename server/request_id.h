// What a request is known by in answers and logs.
#pragma once

#include <string>
#include <string_view>

namespace qianyi {

// The client's own, if it is fit to be echoed: 1 to 128 letters of a-z and A-Z, digits, '-', '_',
// '.' and ':'. Otherwise a new one.
std::string RequestIdFrom(std::string_view given);

// `prefix` and 64 random bits.
std::string NewId(std::string_view prefix);

}  // namespace qianyi
