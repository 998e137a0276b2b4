// Whole small files: vocabularies, configurations.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace qianyi {

inline constexpr uint64_t kMaxTokenizerFileBytes = 64ull << 20;

// The file's bytes. NotFound, FailedPrecondition (a directory, unreadable) or InvalidArgument
// (larger than `max_bytes`), naming the file.
absl::StatusOr<std::string> ReadWholeFile(const std::string& path, uint64_t max_bytes);

}  // namespace qianyi
