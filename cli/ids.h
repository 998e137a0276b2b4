// Token ids as people write them: 5,6,7.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace qianyi {

// InvalidArgument names `flag`, the piece that is no id and its place.
absl::StatusOr<std::vector<int32_t>> ParseIds(std::string_view flag, std::string_view text);
std::string FormatIds(std::span<const int32_t> ids);

}  // namespace qianyi
