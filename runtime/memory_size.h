// Sizes and rates as people write them, and the memory this process may use.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace qianyi {

// "3GiB", "512 MiB", "1.5GB", "4096" -> bytes. InvalidArgument on anything else, on negative
// sizes and on more than 2^60.
absl::StatusOr<uint64_t> ParseSize(std::string_view text);
// "25GB/s", "800 MB/s", "1.2GiB/s" -> bytes per second; must be positive.
absl::StatusOr<double> ParseRate(std::string_view text);
// 3221225472 -> "3.00 GiB".
std::string FormatSize(uint64_t bytes);

// The smaller of the machine's RAM and the limits of the memory cgroups we are in (v1, v2).
uint64_t AvailableMemoryBytes();
// Resident memory of this process now, and its peak.
uint64_t ResidentBytes();
uint64_t PeakResidentBytes();

// What the system gives at once where it can, and takes back only as a whole.
inline constexpr uint64_t kHugePageBytes = 2 << 20;
// Gives whole pages of the heap's or a mapping's memory back to the system until they are written
// again; they are zero then.
void GiveBack(std::byte* begin, uint64_t bytes);

}  // namespace qianyi
