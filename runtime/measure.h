// What this machine sustains, measured in about half a second each.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/packed.h"

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
// Bytes per second of copies between the host and a device of memory of its own; 0 when there is
// no room.
enum class LinkDirection { kToDevice, kToHost };
double MeasureLink(const Backend& device, LinkDirection direction);
// Of rows that lie in RAM, the share that `threads` threads compute while a device gets the others
// over its link, for steps of `batch` tokens: that with which both finish together.
double MeasureHostRows(const Backend& device, PackedFormat format, int64_t batch, int threads);
// From how many tokens on the products of the table `library` are faster than those of `ours`, both
// of one device, for weights of `size` rows and columns, and how many times as fast those of the
// largest batch are that was tried (0: no room to try). The table is left to use its library from
// there on.
struct LibraryGain {
  int64_t from_tokens = 0;  // 0: never
  double times = 0;
};
LibraryGain MeasureLibrary(const Backend& ours, const Backend& library, PackedFormat format,
                           int64_t size = 4096);
// What a device sustains of its memory, through our own kernel, and in operations per second (2 per
// multiply-add) of a large batch, for weights of `size` columns; 0 where there is no room to try.
double MeasureDeviceBandwidth(const Backend& device, int64_t size = 4096);
double MeasureDeviceCompute(const Backend& device, PackedFormat format, int64_t size = 4096);
// RAM that any of them takes while it lasts, but for the 1 GiB of MeasureMemoryReads.
inline constexpr uint64_t kMeasureBytes = 256 << 20;

}  // namespace qianyi
