// What a device can do at most, for benchmarks to compare with: no entries of the table.
#pragma once

#include "kernels/backend.h"

namespace qianyi::cuda::hardware {

// Reads `bytes` (a multiple of 16) of device memory; `out` [1] keeps the reads from being left out.
void RunReadPeak(const void* data, int64_t bytes, float* out, Stream stream);
// kInt8PeakOperations or kTf32PeakOperations per block and iteration (two per multiply-add) of mma
// on int8, or on tf32 where `integer` is false.
inline constexpr int64_t kInt8PeakOperations = 8 * 8 * 2 * 16 * 8 * 32;
inline constexpr int64_t kTf32PeakOperations = 8 * 8 * 2 * 16 * 8 * 8;
void RunMmaPeak(bool integer, int64_t blocks, int64_t iterations, float* out, Stream stream);

}  // namespace qianyi::cuda::hardware
