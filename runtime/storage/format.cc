#include "runtime/storage/format.h"

#include <utility>

#include "absl/strings/str_format.h"

namespace qianyi {
namespace {

constexpr std::pair<std::string_view, DType> kNames[] = {{"f32", DType::kF32},
                                                         {"f16", DType::kF16},
                                                         {"bf16", DType::kBF16},
                                                         {"int8", DType::kI8},
                                                         {"int4", DType::kI4}};

}  // namespace

std::string_view DTypeName(DType dtype) {
  for (const auto& [name, known] : kNames) {
    if (known == dtype) return name;
  }
  return "unknown";
}

std::optional<DType> DTypeFromName(std::string_view name) {
  for (const auto& [known, dtype] : kNames) {
    if (known == name) return dtype;
  }
  return std::nullopt;
}

absl::StatusOr<PackedFormat> ParseFormat(std::string_view dtype, std::optional<int> group) {
  const std::optional<DType> known = DTypeFromName(dtype);
  if (!known) {
    return absl::InvalidArgumentError(
        absl::StrFormat("dtype '%s' is none of f32, f16, bf16, int8, int4", dtype));
  }
  if (*known != DType::kI4) {
    if (group) {
      return absl::InvalidArgumentError(
          absl::StrFormat("group %d: only int4 has groups, not %s; leave it out", *group, dtype));
    }
    return PackedFormat{*known, 0};
  }
  const PackedFormat format{DType::kI4, group.value_or(kDefaultGroup)};
  if (format.group != 0 && format.group != 32 && format.group != 64 && format.group != 128) {
    return absl::InvalidArgumentError(
        absl::StrFormat("group %d is none of 0 (one scale per row), 32, 64, 128", format.group));
  }
  return format;
}

}  // namespace qianyi
