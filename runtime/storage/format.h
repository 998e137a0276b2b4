// Names of weight formats, as users and files spell them.
#pragma once

#include <optional>
#include <string_view>

#include "absl/status/statusor.h"
#include "kernels/packed.h"

namespace qianyi {

// "f32", "f16", "bf16", "int8" or "int4".
std::string_view DTypeName(DType dtype);
std::optional<DType> DTypeFromName(std::string_view name);

inline constexpr int kDefaultGroup = 32;

// What `--dtype` and `--group` ask for. Only int4 takes a group: 0 (one scale per row), 32,
// 64 or 128, and kDefaultGroup when none is given. InvalidArgument lists the choices.
absl::StatusOr<PackedFormat> ParseFormat(std::string_view dtype, std::optional<int> group);

}  // namespace qianyi
