#include "kernels/cuda/device_rows.h"
#include "kernels/cuda/peaks.h"

namespace qianyi::cuda::QIANYI_FLAVOUR {
namespace {

constexpr int64_t kReadBlocks = 4096;

struct ReadPeakKernel {
  static constexpr int kThreads = 256;
  const void* data;
  int64_t bytes;
  float* out;

  QIANYI_DEVICE void operator()() const {
    const Global<const uint32_t> words(static_cast<const uint32_t*>(data), bytes / 4);
    uint32_t sum = 0;
    const int64_t step = kReadBlocks * kThreads * 4;
    for (int64_t i = (BlockIndex(0) * kThreads + ThreadIndex()) * 4; i + 4 <= bytes / 4;
         i += step) {
      const Words4 four = words.LoadAs<Words4>(i);
      sum += four.word[0] ^ four.word[1] ^ four.word[2] ^ four.word[3];
    }
    if (sum == 0x12345678u) Global<float>(out, 1).Store(0, 1.0f);
  }
};

// Eight warps with eight independent sums each.
template <typename Sum>
struct MmaPeakKernel {
  static constexpr int kThreads = 256;
  int64_t iterations;
  float* out;

  QIANYI_DEVICE void operator()() const {
    Sum sum[8][4] = {};
    const uint32_t lane = static_cast<uint32_t>(Lane());
    const uint32_t a[4] = {lane, lane + 1, lane + 2, lane + 3}, b[2] = {lane, lane + 5};
    for (int64_t i = 0; i < iterations; ++i) {
      for (auto& one : sum) Multiply(one, a, b);
    }
    Sum total = 0;
    for (auto& one : sum) total += one[0] + one[1] + one[2] + one[3];
    if (total == Sum(123457)) Global<float>(out, 1).Store(0, 1.0f);
  }
  QIANYI_DEVICE static void Multiply(int32_t (&c)[4], const uint32_t (&a)[4],
                                     const uint32_t (&b)[2]) {
    MmaInt8(c, a, b);
  }
  QIANYI_DEVICE static void Multiply(float (&c)[4], const uint32_t (&a)[4],
                                     const uint32_t (&b)[2]) {
    MmaTf32(c, a, b);
  }
};

}  // namespace

void RunReadPeak(const void* data, int64_t bytes, float* out, Stream stream) {
  Launch(stream, {kReadBlocks}, ReadPeakKernel{data, bytes, out});
}

void RunMmaPeak(bool integer, int64_t blocks, int64_t iterations, float* out, Stream stream) {
  if (integer) {
    Launch(stream, {blocks}, MmaPeakKernel<int32_t>{iterations, out});
  } else {
    Launch(stream, {blocks}, MmaPeakKernel<float>{iterations, out});
  }
}

}  // namespace qianyi::cuda::QIANYI_FLAVOUR
