#include "kernels/cuda/device_rows.h"
#include "kernels/cuda/kernels.h"

namespace qianyi::cuda::QIANYI_FLAVOUR {
namespace {

// Block (t, s) has slice s of token t: two columns per thread, so that 16 threads sum 32. The
// bits are those of the CPU: a maximum and whole sums have no order (docs/numerics.md).
struct QuantizeKernel {
  static constexpr int kThreads = kSliceCols / 2;
  Quantize args;
  int64_t padded_cols, slices;

  QIANYI_DEVICE void operator()() const {
    QIANYI_SHARED(uint32_t, maxima, kThreads / 32);
    const int64_t t = BlockIndex(0), slice = BlockIndex(1);
    const int64_t c = slice * kSliceCols + 2 * ThreadIndex();
    const Global<float> x = RowOf(args.x, t);
    float value[2];
    uint32_t bits = 0;
    for (int i = 0; i < 2; ++i) {
      value[i] = c + i < args.x.cols ? x.Load(c + i) : 0.0f;
      const uint32_t magnitude = BitsOf(value[i]) & 0x7fffffffu;
      bits = magnitude > bits ? magnitude : bits;
    }
    bits = WarpMaxBits(bits);
    if (Lane() == 0) maxima.Store(Warp(), bits);
    Barrier();
    for (int warp = 0; warp < kThreads / 32; ++warp) {
      const uint32_t other = maxima.Load(warp);
      bits = other > bits ? other : bits;
    }
    const bool finite = bits < 0x7f800000u;
    const bool tiny = bits < (127u - 100u) << 23;  // 127 / m must stay finite
    const float absmax = FloatOf(bits);
    const float inverse = finite && !tiny ? 127.0f / absmax : 0.0f;
    if (ThreadIndex() == 0) {
      const float scale = !finite ? FloatOf(0x7fc00000u) : tiny ? 0.0f : absmax / 127.0f;
      Global<float>(args.out.scales + t * slices, slices).Store(slice, scale);
    }
    int quantized[2];
    for (int i = 0; i < 2; ++i) quantized[i] = finite ? Quantized(value[i] * inverse) : 0;
    int sum = quantized[0] + quantized[1];
    for (int mask = 8; mask > 0; mask /= 2) sum += ShuffleXor(sum, mask);
    if (c >= padded_cols) return;
    Global<int8_t>(args.out.values + t * padded_cols, padded_cols)
        .StoreAs<uint16_t>(c, static_cast<uint16_t>((quantized[0] & 255) | quantized[1] << 8));
    if (ThreadIndex() % 16 == 0) {
      Global<int32_t>(args.out.sums + t * (padded_cols / 32), padded_cols / 32).Store(c / 32, sum);
    }
  }

  // To nearest, ties to even: adding the constant leaves no fraction.
  QIANYI_DEVICE static int Quantized(float x) {
    const float q = (x + 0x1.8p23f) - 0x1.8p23f;
    return static_cast<int>(q > 127.0f ? 127.0f : q < -127.0f ? -127.0f : q);
  }
};

}  // namespace

void RunQuantize(const Quantize& args, Stream stream) {
  Launch(stream, {args.x.rows, args.out.slices()},
         QuantizeKernel{args, args.out.padded_cols(), args.out.slices()});
}

}  // namespace qianyi::cuda::QIANYI_FLAVOUR
