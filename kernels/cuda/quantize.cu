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
    bits = BlockMaxBits<kThreads>(bits, maxima);
    const Int8Scale to = Int8ScaleOf(bits);
    if (ThreadIndex() == 0) {
      Global<float>(args.out.scales + t * slices, slices).Store(slice, to.scale);
    }
    int quantized[2];
    for (int i = 0; i < 2; ++i) quantized[i] = to.finite ? RoundToInt8(value[i] * to.inverse) : 0;
    int sum = quantized[0] + quantized[1];
    for (int mask = 8; mask > 0; mask /= 2) sum += ShuffleXor(sum, mask);
    if (c >= padded_cols) return;
    Global<int8_t>(args.out.values + t * padded_cols, padded_cols)
        .StoreAs<uint16_t>(c, static_cast<uint16_t>((quantized[0] & 255) | quantized[1] << 8));
    if (ThreadIndex() % 16 == 0) {
      Global<int32_t>(args.out.sums + t * (padded_cols / 32), padded_cols / 32).Store(c / 32, sum);
    }
  }
};

}  // namespace

void RunQuantize(const Quantize& args, Stream stream) {
  Launch(stream, {args.x.rows, args.out.slices()},
         QuantizeKernel{args, args.out.padded_cols(), args.out.slices()});
}

}  // namespace qianyi::cuda::QIANYI_FLAVOUR
