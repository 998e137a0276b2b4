// What this machine sustains, measured in about half a second each.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/packed.h"
#include "runtime/plan.h"

namespace qianyi {

// Bytes per second of reading RAM with `threads` threads through our own matrix kernel.
double MeasureHostBandwidth(int threads);
// The same by adding up all words of 1 GiB, which no kernel of ours can make faster or slower. 0
// when there is no room for it.
double MeasureMemoryReads(int threads);
// Operations per second (2 per multiply-add) of products with weights of `format`, for a
// batch of 64 tokens: what a large batch is limited by.
double MeasureCompute(PackedFormat format, int threads);
// Bytes per second of a weight file, as the weight store reads it.
absl::StatusOr<double> MeasureDisk(const std::string& path);
// Bytes per second of copies from the host to a device of memory of its own; 0 when there is no
// room.
double MeasureLink(const Backend& device);
// Of rows that lie in RAM, the share that `threads` threads compute while a device gets the others
// over its link, for steps of `batch` tokens: that with which both finish together.
double MeasureHostRows(const Backend& device, PackedFormat format, int64_t batch, int threads);
// All of them that bound a plan without a device, the disk's only where `path` is not empty. Takes
// kMeasureBytes of RAM while it lasts.
inline constexpr uint64_t kMeasureBytes = 256 << 20;
absl::StatusOr<Rates> MeasureRates(PackedFormat format, int threads, const std::string& path);

}  // namespace qianyi
