#include "runtime/measure.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <limits>
#include <numeric>
#include <thread>
#include <vector>

#include "kernels/backend.h"
#include "runtime/storage/bench_io.h"

namespace qianyi {
namespace {

constexpr int64_t kCols = 4096;
constexpr double kSeconds = 0.4;

// Seconds of a product: the best of as many runs as fill `least_seconds`, three at least.
double BestOfRuns(const Backend& backend, const Linear& task, Stream stream, double least_seconds) {
  double best = 0, total = 0;
  for (int run = 0; run < 3 || total < least_seconds; ++run) {
    const auto start = std::chrono::steady_clock::now();
    backend.linear(task, stream);
    backend.synchronize(stream);
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    best = run == 0 ? seconds : std::min(best, seconds);
    total += seconds;
  }
  return best;
}

// Seconds per product of `tokens` tokens with `rows` rows of weights, at best: the machine may
// be shared, and what others take is not ours to give away.
double BestSeconds(PackedFormat format, int64_t rows, int64_t tokens, int threads) {
  const Backend& cpu = Cpu();
  const Stream stream = cpu.create_stream(threads);
  const size_t weight_bytes = PackedBytes(format, rows, kCols);
  auto* weights = static_cast<std::byte*>(cpu.alloc(weight_bytes));
  double best = 0;
  if (weights != nullptr) {
    std::memset(weights, 1, weight_bytes);  // so that every page is there
    std::vector<float> x(tokens * kCols, 0.5f), out(tokens * rows);
    std::vector<int8_t> values(tokens * kCols + 64);
    std::vector<float> scales(tokens * kCols / kSliceCols);
    std::vector<int32_t> sums(tokens * kCols / 32);
    auto* aligned =
        reinterpret_cast<int8_t*>((reinterpret_cast<uintptr_t>(values.data()) + 63) / 64 * 64);
    Linear task;
    task.x = F32(x.data(), tokens, kCols);
    task.quantized = {aligned, scales.data(), sums.data(), tokens, kCols};
    task.weight = {weights, format, rows, kCols};
    task.out = F32(out.data(), tokens, rows);
    cpu.quantize({.x = task.x, .out = task.quantized}, stream);
    best = BestOfRuns(cpu, task, stream, kSeconds);
    cpu.free(weights, weight_bytes);
  }
  cpu.destroy_stream(stream);
  return best;
}

// Seconds of a product on a device, at best; 0 without room. What is multiplied is zero, which
// takes a device as long as anything else.
constexpr int64_t kLargeBatch = 512;
double BestDeviceSeconds(const Backend& device, PackedFormat format, int64_t rows, int64_t cols,
                         int64_t tokens) {
  const size_t weight_bytes = PackedBytes(format, rows, cols);
  const size_t x_bytes = (tokens * cols * sizeof(float) + 255) / 256 * 256;
  const size_t bytes = weight_bytes + 3 * x_bytes + tokens * rows * sizeof(float);
  auto* const memory = static_cast<std::byte*>(device.alloc(bytes));
  if (memory == nullptr) return 0;
  std::byte* const x = memory + weight_bytes;
  Linear task;
  task.x = F32(reinterpret_cast<float*>(x), tokens, cols);
  task.quantized = {reinterpret_cast<int8_t*>(x), reinterpret_cast<float*>(x + x_bytes),
                    reinterpret_cast<int32_t*>(x + 2 * x_bytes), tokens, cols};
  task.weight = {memory, format, rows, cols};
  task.out = F32(reinterpret_cast<float*>(x + 3 * x_bytes), tokens, rows);
  const Stream stream = device.create_stream(1);
  const double best = BestOfRuns(device, task, stream, kSeconds / 4);
  device.destroy_stream(stream);
  device.free(memory, bytes);
  return best;
}

// Adds up whole cache lines, a word of each in a sum of its own: as fast as any loop can read.
uint64_t AddUp(const uint64_t* words, size_t count) {
  std::array<uint64_t, 8> sums = {};
  for (size_t i = 0; i + sums.size() <= count; i += sums.size()) {
    for (size_t k = 0; k < sums.size(); ++k) sums[k] += words[i + k];
  }
  return std::accumulate(sums.begin(), sums.end(), uint64_t{0});
}

}  // namespace

double MeasureMemoryReads(int threads) {
  constexpr size_t kBytes = size_t{1} << 30;
  const Backend& cpu = Cpu();
  auto* memory = static_cast<std::byte*>(cpu.alloc(kBytes));
  if (memory == nullptr) return 0;
  std::memset(memory, 1, kBytes);  // so that every page is there
  const auto* words = reinterpret_cast<const uint64_t*>(memory);
  const size_t each = kBytes / sizeof(uint64_t) / threads;
  std::atomic<uint64_t> sum = 0;  // used, so that no compiler leaves the reading out
  double best = 0, total = 0;
  for (int run = 0; run < 3 || total < kSeconds; ++run) {
    const auto start = std::chrono::steady_clock::now();
    {
      std::vector<std::jthread> readers;
      for (int i = 0; i < threads; ++i) {
        readers.emplace_back([&sum, words, each, i] { sum += AddUp(words + each * i, each); });
      }
    }
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    best = run == 0 ? seconds : std::min(best, seconds);
    total += seconds;
  }
  cpu.free(memory, kBytes);
  return sum == 0 ? 0 : static_cast<double>(each * threads * sizeof(uint64_t)) / best;
}

double MeasureHostBandwidth(int threads) {
  // Far larger than any cache.
  constexpr int64_t kRows = 48 << 10;
  const PackedFormat format{DType::kI8};
  const double seconds = BestSeconds(format, kRows, 1, threads);
  return seconds > 0 ? PackedBytes(format, kRows, kCols) / seconds : 0;
}

double MeasureCompute(PackedFormat format, int threads) {
  constexpr int64_t kRows = 4096;
  constexpr int64_t kTokens = 64;
  const double seconds = BestSeconds(format, kRows, kTokens, threads);
  return seconds > 0 ? 2.0 * kRows * kCols * kTokens / seconds : 0;
}

absl::StatusOr<double> MeasureDisk(const std::string& path) {
  // A sample of all of it: its beginning may lie in a cache below the system.
  absl::StatusOr<IoReport> report = BenchIo(path, {.max_seconds = 2 * kSeconds, .stretches = 16});
  if (!report.ok()) return report.status();
  return report->gb_per_second() * 1e9;
}

double MeasureLink(const Backend& device, LinkDirection direction) {
  constexpr size_t kBytes = 64 << 20;
  void* const there = device.alloc(kBytes);
  void* const here = device.alloc_host(kBytes);
  const Stream copies = device.create_stream(0);
  double best = 0;
  for (int run = 0; run < 4 && there != nullptr && here != nullptr; ++run) {
    const auto start = std::chrono::steady_clock::now();
    if (direction == LinkDirection::kToDevice) {
      device.upload(there, here, kBytes, copies);
    } else {
      device.download(here, there, kBytes, copies);
    }
    device.synchronize(copies);
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (seconds > 0) best = std::max(best, kBytes / seconds);
  }
  device.destroy_stream(copies);
  if (there != nullptr) device.free(there, kBytes);
  if (here != nullptr) device.free_host(here, kBytes);
  return best;
}

double MeasureHostRows(const Backend& device, PackedFormat format, int64_t batch, int threads) {
  constexpr int64_t kHostRows = 24 << 10;
  const double link = MeasureLink(device, LinkDirection::kToDevice);
  const double seconds = BestSeconds(format, kHostRows, batch, threads);
  if (link <= 0 || seconds <= 0) return 0;
  const double host = PackedBytes(format, kHostRows, kCols) / seconds;
  return host / (host + link);
}

LibraryGain MeasureLibrary(const Backend& ours, const Backend& library, PackedFormat format,
                           int64_t size) {
  LibraryGain gain;
  library.use_library_from(1);
  for (int64_t tokens = 2048; tokens >= 64; tokens /= 2) {
    const double without = BestDeviceSeconds(ours, format, size, size, tokens);
    const double with = BestDeviceSeconds(library, format, size, size, tokens);
    if (gain.times == 0 && with > 0) gain.times = without / with;
    if (with <= 0 || with >= without) break;  // and of fewer, too
    gain.from_tokens = tokens;
  }
  library.use_library_from(gain.from_tokens > 0 ? gain.from_tokens
                                                : std::numeric_limits<int64_t>::max());
  return gain;
}

double MeasureDeviceBandwidth(const Backend& device, int64_t size) {
  const PackedFormat format{DType::kI8};
  const int64_t rows = 16 * size;  // far larger than any cache
  const double seconds = BestDeviceSeconds(device, format, rows, size, 1);
  return seconds > 0 ? PackedBytes(format, rows, size) / seconds : 0;
}

double MeasureDeviceCompute(const Backend& device, PackedFormat format, int64_t size) {
  const double seconds = BestDeviceSeconds(device, format, size, size, kLargeBatch);
  return seconds > 0 ? 2.0 * kLargeBatch * size * size / seconds : 0;
}

}  // namespace qianyi
