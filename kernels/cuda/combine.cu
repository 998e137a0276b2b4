#include "kernels/cuda/device_rows.h"
#include "kernels/cuda/kernels.h"

namespace qianyi::cuda::QIANYI_FLAVOUR {
namespace {

// Block (t, j) has columns 256 j and on of token t. The CPU's operations in the CPU's order.
struct CombineKernel {
  static constexpr int kThreads = 256;
  Combine args;

  QIANYI_DEVICE void operator()() const {
    const int64_t t = BlockIndex(0), c = BlockIndex(1) * kThreads + ThreadIndex();
    if (c >= args.out.cols) return;
    const int64_t choices = args.out.rows * args.count;
    const Global<const int32_t> ids(args.ids, choices);
    const Global<const float> weights(args.weights, choices);
    float sum = 0.0f;
    for (int64_t j = t * args.count; j < (t + 1) * args.count; ++j) {
      const int32_t row = ids.Load(j);
      if (row >= 0) sum = Fma(weights.Load(j), RowOf(args.rows, row).Load(c), sum);
    }
    const Global<float> out = RowOf(args.out, t);
    out.Store(c, out.Load(c) + sum);
  }
};

}  // namespace

void RunCombine(const Combine& args, Stream stream) {
  Launch(stream, {args.out.rows, CeilDiv(args.out.cols, CombineKernel::kThreads)},
         CombineKernel{args});
}

}  // namespace qianyi::cuda::QIANYI_FLAVOUR
