#include "kernels/cpu/drivers.h"

namespace qianyi::cpu {

void RunQuantize(const Quantize& args, ThreadPool& pool, const RowKernels& kernels) {
  const QuantizedRows& out = args.out;
  const int64_t padded = out.padded_cols();
  pool.Run(args.x.rows, 4, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      kernels.quantize(args.x.f32(t), args.x.cols, out.values + t * padded,
                       out.scales + t * out.slices(), out.sums + t * (padded / 32));
    }
  });
}

}  // namespace qianyi::cpu
