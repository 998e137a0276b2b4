// One block per row. Thread i sums elements i, i + 256, … in order; then BlockSum.
#include "kernels/cuda/device_rows.h"
#include "kernels/cuda/kernels.h"

namespace qianyi::cuda::QIANYI_FLAVOUR {
namespace {

struct LayerNormKernel {
  static constexpr int kThreads = 256;
  LayerNorm args;

  // The epsilon of a norm of x / (max|x| / max_scale), for x as it is.
  QIANYI_DEVICE float ScaledEpsilon(const Global<float>& x) const {
    QIANYI_SHARED(uint32_t, maxima, kThreads / 32);
    uint32_t most = 0;
    for (int64_t c = ThreadIndex(); c < args.x.cols; c += kThreads) {
      const uint32_t bits = BitsOf(x.Load(c)) & 0x7fffffffu;
      most = bits > most ? bits : most;
    }
    const float scale = FloatOf(BlockMaxBits<kThreads>(most, maxima)) / args.max_scale;
    return scale > 0.0f ? args.epsilon * scale * scale : args.epsilon;
  }

  QIANYI_DEVICE void operator()() const {
    QIANYI_SHARED(float, sums, kThreads / 32);
    QIANYI_SHARED(float, squares, kThreads / 32);
    const int64_t cols = args.x.cols;
    const Global<float> x = RowOf(args.x, BlockIndex(0)), out = RowOf(args.out, BlockIndex(0));
    const Global<const float> weight(args.weight, cols), bias(args.bias, cols);
    const float epsilon = args.max_scale > 0.0f ? ScaledEpsilon(x) : args.epsilon;
    float sum = 0.0f;
    for (int64_t c = ThreadIndex(); c < cols; c += kThreads) sum += x.Load(c);
    const float mean = BlockSum<kThreads>(sum, sums) / static_cast<float>(cols);
    float square = 0.0f;
    for (int64_t c = ThreadIndex(); c < cols; c += kThreads) {
      const float d = x.Load(c) - mean;
      square = Fma(d, d, square);
    }
    const float variance = BlockSum<kThreads>(square, squares) / static_cast<float>(cols);
    const float inverse = 1.0f / Sqrt(variance + epsilon);
    for (int64_t c = ThreadIndex(); c < cols; c += kThreads) {
      out.Store(c, Fma((x.Load(c) - mean) * inverse, weight.Load(c), bias.Load(c)));
    }
  }
};

struct RmsNormKernel {
  static constexpr int kThreads = 256;
  RmsNorm args;

  QIANYI_DEVICE void operator()() const {
    QIANYI_SHARED(float, squares, kThreads / 32);
    const int64_t cols = args.x.cols;
    const Global<float> x = RowOf(args.x, BlockIndex(0)), out = RowOf(args.out, BlockIndex(0));
    const Global<const float> weight(args.weight, cols);
    float square = 0.0f;
    for (int64_t c = ThreadIndex(); c < cols; c += kThreads) {
      const float v = x.Load(c);
      square = Fma(v, v, square);
    }
    const float mean = BlockSum<kThreads>(square, squares) / static_cast<float>(cols);
    const float inverse = 1.0f / Sqrt(mean + args.epsilon);
    for (int64_t c = ThreadIndex(); c < cols; c += kThreads) {
      out.Store(c, x.Load(c) * inverse * weight.Load(c));
    }
  }
};

}  // namespace

void RunLayerNorm(const LayerNorm& args, Stream stream) {
  Launch(stream, {args.x.rows}, LayerNormKernel{args});
}

void RunRmsNorm(const RmsNorm& args, Stream stream) {
  Launch(stream, {args.x.rows}, RmsNormKernel{args});
}

}  // namespace qianyi::cuda::QIANYI_FLAVOUR
