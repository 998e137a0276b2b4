// The CUDA kernels at the shapes of large models, against what the device can do at most. Writes
// JSON to standard output:
//   cuda_benchmark [--seconds S] [--only SUBSTRING]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/peaks.h"

namespace qianyi {
namespace {

constexpr int64_t kPoolBytes = int64_t{1} << 30;  // far larger than any cache

struct Options {
  double seconds = 0.5;
  std::string only;
};

class Bench {
 public:
  Bench(const Backend& device, const Backend& library, Options options)
      : device_(device),
        library_(library),
        options_(std::move(options)),
        stream_(device.create_stream(1)),
        library_stream_(library.create_stream(1)),
        pool_(static_cast<std::byte*>(device.alloc(kPoolBytes))),
        out_(static_cast<float*>(device.alloc(int64_t{256} << 20))),
        host_(static_cast<std::byte*>(device.alloc_host(int64_t{256} << 20))) {}

  bool ready() const { return pool_ != nullptr && out_ != nullptr && host_ != nullptr; }

  void Run() {
    std::printf("{\"kind\": \"cuda\", \"device\": \"%s\", \"library\": \"%s\", \"results\": [\n",
                std::string(device_.variant).c_str(), std::string(library_.library).c_str());
    Peaks();
    const struct {
      const char* name;
      PackedFormat format;
    } formats[] = {{"int4", {DType::kI4, 0}},
                   {"int4_g32", {DType::kI4, 32}},
                   {"int8", {DType::kI8, 0}},
                   {"f16", {DType::kF16, 0}}};
    for (const auto& [name, format] : formats) {
      for (int64_t tokens : {1, 4, 16, 64, 512}) {
        for (const auto& [rows, cols] :
             {std::pair<int64_t, int64_t>{36864, 12288}, {12288, 32768}, {4096, 4096}}) {
          RunLinear("linear", device_, stream_, name, format, tokens, rows, cols);
          if (tokens < 64 || library_.library.empty()) continue;
          RunLinear("linear_library", library_, library_stream_, name, format, tokens, rows, cols);
        }
      }
    }
    for (int64_t context : {2048, 32768}) RunDecode(context, 32, 2);
    RunDecode(2048, 96, 96);
    std::printf("\n]}\n");
  }

 private:
  // Seconds of one call, of as many as fill the time.
  double Seconds(const std::function<void(int64_t)>& call) {
    return Seconds(call, device_, stream_);
  }
  double Seconds(const std::function<void(int64_t)>& call, const Backend& device, Stream stream) {
    call(0);
    device.synchronize(stream);
    for (int64_t calls = 1;; calls *= 2) {
      const auto begin = std::chrono::steady_clock::now();
      for (int64_t i = 0; i < calls; ++i) call(i);
      device.synchronize(stream);
      const double seconds =
          std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
      if (seconds > options_.seconds) return seconds / static_cast<double>(calls);
    }
  }

  bool Wants(const std::string& name) const {
    return name.find(options_.only) != std::string::npos;
  }

  // `share`: of the peak that bounds it; 0 for peaks themselves.
  void Report(const std::string& name, double seconds, double rate, const char* unit,
              double share) {
    std::printf("%s  {\"name\": \"%s\", \"seconds\": %.4g, \"%s\": %.5g, \"share_of_peak\": %.3f}",
                first_ ? "" : ",\n", name.c_str(), seconds, unit, rate, share);
    std::fflush(stdout);
    first_ = false;
  }

  void Peaks() {
    double seconds =
        Seconds([&](int64_t) { cuda::hardware::RunReadPeak(pool_, kPoolBytes, out_, stream_); });
    read_peak_ = kPoolBytes / seconds;
    Report("peak/read", seconds, read_peak_ / 1e9, "gb_per_second", 0);
    constexpr int64_t kBlocks = 2048, kIterations = 2000;
    for (bool integer : {true, false}) {
      seconds = Seconds([&](int64_t) {
        cuda::hardware::RunMmaPeak(integer, kBlocks, kIterations, out_, stream_);
      });
      const double operations =
          1.0 * kBlocks * kIterations *
          (integer ? cuda::hardware::kInt8PeakOperations : cuda::hardware::kTf32PeakOperations);
      (integer ? int8_peak_ : tf32_peak_) = operations / seconds;
      Report(integer ? "peak/mma_int8" : "peak/mma_tf32", seconds, operations / seconds / 1e12,
             "tops", 0);
    }
    constexpr size_t kCopied = size_t{256} << 20;
    seconds = Seconds([&](int64_t) { device_.upload(pool_, host_, kCopied, stream_); });
    Report("peak/upload", seconds, kCopied / seconds / 1e9, "gb_per_second", 0);
    seconds = Seconds([&](int64_t) { device_.download(host_, pool_, kCopied, stream_); });
    Report("peak/download", seconds, kCopied / seconds / 1e9, "gb_per_second", 0);
  }

  // A pool of weights is gone through in turn, so that none is in a cache.
  void RunLinear(const char* workload, const Backend& device, Stream stream,
                 const std::string& format_name, PackedFormat format, int64_t tokens, int64_t rows,
                 int64_t cols) {
    const std::string name = std::string(workload) + "/" + format_name + "/" +
                             std::to_string(tokens) + "x" + std::to_string(rows) + "x" +
                             std::to_string(cols);
    if (!Wants(name)) return;
    const int64_t bytes = static_cast<int64_t>(PackedBytes(format, rows, cols));
    const int64_t copies = kPoolBytes / bytes;
    float* const x = out_ + tokens * rows;
    Linear task;
    task.x = F32(x, tokens, cols);
    task.out = F32(out_, tokens, rows);
    task.quantized.rows = tokens;
    task.quantized.cols = cols;
    std::byte* at = reinterpret_cast<std::byte*>(x + tokens * cols);
    at += (256 - reinterpret_cast<uintptr_t>(at) % 256) % 256;
    task.quantized.values = reinterpret_cast<int8_t*>(at);
    at += tokens * task.quantized.padded_cols();
    task.quantized.scales = reinterpret_cast<float*>(at);
    at += tokens * task.quantized.slices() * 4 + 256;
    task.quantized.sums = reinterpret_cast<int32_t*>(at);
    const double seconds = Seconds(
        [&](int64_t i) {
          if (format.integer()) device.quantize({task.x, task.quantized}, stream);
          task.weight = {pool_ + i % copies * bytes, format, rows, cols};
          device.linear(task, stream);
        },
        device, stream);
    const double operations = 2.0 * tokens * rows * cols;
    // The library multiplies bf16, twice as fast as tf32; our f16 takes two products in tf32.
    const double peak = !device.library.empty() ? 2 * tf32_peak_
                        : format.integer()      ? int8_peak_
                                                : tf32_peak_ / 2;
    const double by_memory = bytes / read_peak_, by_arithmetic = operations / peak;
    if (by_memory > by_arithmetic) {
      Report(name, seconds, bytes / seconds / 1e9, "gb_per_second", by_memory / seconds);
    } else {
      Report(name, seconds, operations / seconds / 1e12, "tops", by_arithmetic / seconds);
    }
  }

  // One token of each of as many sequences as the pool has room for, eight at most.
  void RunDecode(int64_t context, int64_t heads, int64_t kv_heads) {
    const std::string name = "decode/" + std::to_string(context) + "_tokens_" +
                             std::to_string(heads) + "_heads_on_" + std::to_string(kv_heads);
    if (!Wants(name)) return;
    constexpr int64_t kDim = 128;
    KvLayer layer;
    layer.pages = pool_;
    layer.dtype = DType::kF16;
    layer.kv_heads = kv_heads;
    layer.key_dim = layer.value_dim = kDim;
    layer.page_bytes = static_cast<size_t>(kPageTokens * kv_heads * 2 * kDim * 2);
    const int64_t pages = context / kPageTokens;
    const int64_t bytes = pages * static_cast<int64_t>(layer.page_bytes);
    const int64_t tokens = std::min<int64_t>(8, kPoolBytes / bytes);
    std::byte* const tables = reinterpret_cast<std::byte*>(out_ + 2 * tokens * heads * kDim);
    int32_t* const pages_here = reinterpret_cast<int32_t*>(host_);
    for (int64_t i = 0; i < tokens * pages; ++i) pages_here[i] = static_cast<int32_t>(i);
    const int64_t table_bytes = tokens * pages * 4;
    const int32_t** const pointers = reinterpret_cast<const int32_t**>(host_ + table_bytes);
    int32_t* const visible = reinterpret_cast<int32_t*>(pointers + tokens);
    for (int64_t t = 0; t < tokens; ++t) {
      pointers[t] = reinterpret_cast<const int32_t*>(tables) + t * pages;
      visible[t] = static_cast<int32_t>(context);
    }
    device_.upload(tables, host_, table_bytes + tokens * 12, stream_);
    Attention task;
    task.q = F32(out_, tokens, heads * kDim);
    task.out = F32(out_ + tokens * heads * kDim, tokens, heads * kDim);
    task.pages = reinterpret_cast<const int32_t* const*>(tables + table_bytes);
    task.visible = reinterpret_cast<const int32_t*>(tables + table_bytes + tokens * 8);
    task.heads = heads;
    task.scale = 0.1f;
    task.layer = layer;
    task.longest = context;
    const double seconds = Seconds([&](int64_t) { device_.attention(task, stream_); });
    const double read = 1.0 * tokens * bytes;
    Report(name, seconds, read / seconds / 1e9, "gb_per_second", read / read_peak_ / seconds);
  }

  const Backend& device_;
  const Backend& library_;  // the same with cuBLASLt, where that is installed
  const Options options_;
  const Stream stream_, library_stream_;
  std::byte* const pool_;
  float* const out_;
  std::byte* const host_;
  double read_peak_ = 0, int8_peak_ = 0, tf32_peak_ = 0;
  bool first_ = true;
};

int Main(int count, char** words) {
  Options options;
  for (int i = 1; i + 1 < count; i += 2) {
    if (std::strcmp(words[i], "--seconds") == 0) options.seconds = std::atof(words[i + 1]);
    if (std::strcmp(words[i], "--only") == 0) options.only = words[i + 1];
  }
  if (Cuda() == nullptr) {
    std::fprintf(stderr, "cuda_benchmark: there is no CUDA device\n");
    return 1;
  }
  if (FastCuda()->use_library_from != nullptr) FastCuda()->use_library_from(1);
  Bench bench(*Cuda(), *FastCuda(), options);
  if (!bench.ready()) {
    std::fprintf(stderr, "cuda_benchmark: needs 1.5 GiB of the device\n");
    return 1;
  }
  bench.Run();
  if (!Cuda()->failed()) return 0;
  std::fprintf(stderr, "cuda_benchmark: the device failed\n");
  return 1;
}

}  // namespace
}  // namespace qianyi

int main(int count, char** words) { return qianyi::Main(count, words); }
