// Kernels by themselves, over weights that no cache holds. Names are
//   linear/<variant>/<format>/<cols>x<rows>/tokens:M/threads:T  bytes are packed weights
//   attention/<variant>/<dtype>/kv_heads:H/context:N/tokens:M/threads:T   keys and values
//   pack/<format>                                               bytes are f32 weights
//   read/threads:T, read_ahead/threads:T                        the memory's own bound,
//                                                               without and with prefetch
// Rates are decimal: GB/s, and TOPS with two operations per multiply-add.
#include <benchmark/benchmark.h>

#include <cstring>
#include <memory>
#include <numeric>
#include <string>

#include "kernels/cpu/thread_pool.h"
#include "tests/kernels/cases.h"

namespace qianyi {
namespace {

using testing::AttentionProblem;
using testing::FormatName;
using testing::QuantizedStorage;
using testing::RandomValues;
using testing::ScopedStream;

constexpr size_t kPoolBytes = size_t{512} << 20;

// Memory as the server has it: huge pages where the system grants them.
class DeviceMemory {
 public:
  explicit DeviceMemory(size_t bytes)
      : data_(static_cast<std::byte*>(Cpu().alloc(bytes))), bytes_(bytes) {}
  ~DeviceMemory() { Cpu().free(data_, bytes_); }
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;
  std::byte* data() const { return data_; }

 private:
  std::byte* data_;
  size_t bytes_;
};

void SetRates(benchmark::State& state, double bytes, double operations) {
  const auto rate = benchmark::Counter::kIsIterationInvariantRate;
  if (bytes > 0) state.counters["GB/s"] = benchmark::Counter(bytes * 1e-9, rate);
  if (operations > 0) state.counters["TOPS"] = benchmark::Counter(operations * 1e-12, rate);
}

// Sums all words of the lines [begin, end).
template <bool kAhead>
uint64_t SumLines(const uint64_t* words, int64_t begin, int64_t end) {
  uint64_t a = 0, b = 0, c = 0, d = 0, e = 0, f = 0, g = 0, h = 0;
  for (const uint64_t* w = words + begin * 8; w < words + end * 8; w += 8) {
    if constexpr (kAhead) __builtin_prefetch(w + 256);  // 2 KiB
    a += w[0], b += w[1], c += w[2], d += w[3];
    e += w[4], f += w[5], g += w[6], h += w[7];
  }
  return a + b + c + d + e + f + g + h;
}

template <bool kAhead>
void BM_Read(benchmark::State& state, int threads) {
  const DeviceMemory memory(kPoolBytes);
  std::memset(memory.data(), 1, kPoolBytes);
  const auto pool = cpu::ThreadPool::Create(threads, 0);
  const uint64_t* words = reinterpret_cast<const uint64_t*>(memory.data());
  for (auto _ : state) {
    pool->Run(kPoolBytes / 64, 1 << 14, [&](int64_t begin, int64_t end, int) {
      benchmark::DoNotOptimize(SumLines<kAhead>(words, begin, end));
    });
  }
  SetRates(state, kPoolBytes, 0);
}

// The matrix in `format`, over and over until the pool is full.
struct WeightPool {
  WeightPool(PackedFormat f, int64_t rows, int64_t cols)
      : format(f), bytes(PackedBytes(f, rows, cols)), memory(std::max(kPoolBytes, bytes)) {
    // Sixteen panels are made and repeated: the time does not depend on the values.
    const size_t panel = PanelBytes(f, cols);
    const std::vector<float> source = RandomValues(256 * cols, 1);
    const auto packed = std::make_unique<std::byte[]>(16 * panel);
    PackRows(f, source.data(), 256, cols, cols, packed.get());
    count = std::max<size_t>(1, kPoolBytes / bytes);
    for (size_t i = 0; i < bytes * count / panel; ++i) {
      std::memcpy(memory.data() + i * panel, packed.get() + i % 16 * panel, panel);
    }
  }
  PackedFormat format;
  size_t bytes, count;
  DeviceMemory memory;
};

void BM_Linear(benchmark::State& state, const Backend* backend, PackedFormat format, int64_t cols,
               int64_t rows, int64_t tokens, int threads) {
  static std::unique_ptr<WeightPool> pool;  // benchmarks of one format follow each other
  const size_t bytes = PackedBytes(format, rows, cols);
  if (pool == nullptr || !(pool->format == format) || pool->bytes != bytes) {
    pool.reset();
    pool = std::make_unique<WeightPool>(format, rows, cols);
  }
  ScopedStream stream(*backend, threads);
  std::vector<float> x = RandomValues(tokens * cols, 2), out(tokens * rows);
  QuantizedStorage quantized(tokens, cols);
  backend->quantize({F32(x.data(), tokens, cols), quantized.view()}, stream);
  Linear args;
  args.x = F32(x.data(), tokens, cols);
  args.quantized = quantized.view();
  args.out = F32(out.data(), tokens, rows);
  size_t next = 0;
  for (auto _ : state) {
    args.weight = {pool->memory.data() + next * bytes, format, rows, cols};
    next = (next + 1) % pool->count;
    backend->linear(args, stream);
  }
  SetRates(state, static_cast<double>(bytes), 2.0 * tokens * rows * cols);
}

// One sequence of `context` slots with 32 heads of 128, and `tokens` queries at its end.
void BM_Attention(benchmark::State& state, const Backend* backend, DType dtype, int kv_heads,
                  int context, int tokens, int threads) {
  AttentionProblem problem({32, kv_heads, 128, 128, dtype, {context}, {tokens}});
  const DeviceMemory cache(problem.cache.size());
  std::memcpy(cache.data(), problem.cache.data(), problem.cache.size());
  problem.layer.pages = cache.data();
  ScopedStream stream(*backend, threads);
  std::vector<float> out(tokens * 32 * 128);
  const Attention args = problem.Args(0, tokens, F32(out.data(), tokens, 32 * 128));
  for (auto _ : state) backend->attention(args, stream);
  const double slots = std::accumulate(problem.visible.begin(), problem.visible.end(), 0.0);
  const double slot_bytes = 2.0 * kv_heads * 128 * problem.layer.element_bytes();
  SetRates(state, tokens == 1 ? context * slot_bytes : 0, slots * 32 * 128 * 4);
}

void BM_Pack(benchmark::State& state, PackedFormat format) {
  constexpr int64_t kRows = 64, kCols = 4096;
  const std::vector<float> source = RandomValues(kRows * kCols, 1);
  const auto packed = std::make_unique<std::byte[]>(PackedBytes(format, kRows, kCols));
  for (auto _ : state) PackRows(format, source.data(), kRows, kCols, kCols, packed.get());
  SetRates(state, kRows * kCols * 4.0, 0);
}

std::string Threads(int threads) { return "/threads:" + std::to_string(threads); }

void RegisterLinear(const Backend* backend, PackedFormat format, int64_t cols, int64_t rows) {
  for (int64_t tokens : {1, 4, 8, 16, 64, 512}) {
    for (int threads : {1, 2}) {
      const std::string name = "linear/" + std::string(backend->variant) + "/" +
                               FormatName(format) + "/" + std::to_string(cols) + "x" +
                               std::to_string(rows) + "/tokens:" + std::to_string(tokens) +
                               Threads(threads);
      benchmark::RegisterBenchmark(name.c_str(), BM_Linear, backend, format, cols, rows, tokens,
                                   threads)
          ->UseRealTime();
    }
  }
}

void RegisterAttention(const Backend* backend, DType dtype, int kv_heads) {
  for (auto [context, tokens] : {std::pair<int, int>{4096, 1}, {1024, 256}}) {
    for (int threads : {1, 2}) {
      const std::string name =
          "attention/" + std::string(backend->variant) + (dtype == DType::kF32 ? "/f32" : "/f16") +
          "/kv_heads:" + std::to_string(kv_heads) + "/context:" + std::to_string(context) +
          "/tokens:" + std::to_string(tokens) + Threads(threads);
      benchmark::RegisterBenchmark(name.c_str(), BM_Attention, backend, dtype, kv_heads, context,
                                   tokens, threads)
          ->UseRealTime();
    }
  }
}

void RegisterAll() {
  constexpr PackedFormat kLinear[] = {
      {DType::kI8, 0}, {DType::kI4, 32}, {DType::kI4, 0}, {DType::kF16, 0}, {DType::kF32, 0}};
  for (int threads : {1, 2}) {
    benchmark::RegisterBenchmark(("read" + Threads(threads)).c_str(), BM_Read<false>, threads)
        ->UseRealTime();
    benchmark::RegisterBenchmark(("read_ahead" + Threads(threads)).c_str(), BM_Read<true>, threads)
        ->UseRealTime();
  }
  const BackendList& variants = CpuVariants();
  for (PackedFormat format : kLinear) {
    for (auto [cols, rows] : {std::pair<int64_t, int64_t>{4096, 27392}, {13696, 4096}}) {
      for (int i = 1; i < variants.count; ++i) {  // all but the reference
        RegisterLinear(variants.items[i], format, cols, rows);
      }
    }
  }
  for (int i = 1; i < variants.count; ++i) {
    for (DType dtype : {DType::kF32, DType::kF16}) {
      for (int kv_heads : {2, 32}) RegisterAttention(variants.items[i], dtype, kv_heads);
    }
  }
  for (PackedFormat format : kLinear) {
    benchmark::RegisterBenchmark(("pack/" + FormatName(format)).c_str(), BM_Pack, format);
  }
}

}  // namespace
}  // namespace qianyi

int main(int argc, char** argv) {
  qianyi::RegisterAll();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
