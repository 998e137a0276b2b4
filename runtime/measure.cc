#include "runtime/measure.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <numeric>
#include <thread>
#include <vector>

#include "kernels/backend.h"
#include "runtime/storage/bench_io.h"

namespace qianyi {
namespace {

constexpr int64_t kCols = 4096;
constexpr double kSeconds = 0.4;

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
    double total = 0;
    for (int run = 0; run < 3 || total < kSeconds; ++run) {
      const auto start = std::chrono::steady_clock::now();
      cpu.linear(task, stream);
      cpu.synchronize(stream);
      const double seconds =
          std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      best = run == 0 ? seconds : std::min(best, seconds);
      total += seconds;
    }
    cpu.free(weights, weight_bytes);
  }
  cpu.destroy_stream(stream);
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
  absl::StatusOr<IoReport> report = BenchIo(path, {.max_seconds = 2 * kSeconds});
  if (!report.ok()) return report.status();
  return report->gb_per_second() * 1e9;
}

double MeasureLink(const Backend& device) {
  constexpr size_t kBytes = 64 << 20;
  void* const there = device.alloc(kBytes);
  void* const here = device.alloc_host(kBytes);
  const Stream copies = device.create_stream(0);
  double best = 0;
  for (int run = 0; run < 4 && there != nullptr && here != nullptr; ++run) {
    const auto start = std::chrono::steady_clock::now();
    device.upload(there, here, kBytes, copies);
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
  const double link = MeasureLink(device);
  const double seconds = BestSeconds(format, kHostRows, batch, threads);
  if (link <= 0 || seconds <= 0) return 0;
  const double host = PackedBytes(format, kHostRows, kCols) / seconds;
  return host / (host + link);
}

absl::StatusOr<Rates> MeasureRates(PackedFormat format, int threads, const std::string& path) {
  Rates rates;
  rates.host_bandwidth = MeasureHostBandwidth(threads);
  rates.compute = MeasureCompute(format, threads);
  if (path.empty()) return rates;
  absl::StatusOr<double> disk = MeasureDisk(path);
  if (!disk.ok()) return disk.status();
  rates.disk = *disk;
  return rates;
}

}  // namespace qianyi
