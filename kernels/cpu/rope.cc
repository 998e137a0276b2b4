#include "kernels/cpu/drivers.h"

namespace qianyi::cpu {

void RunRope(const Rope& args, ThreadPool& pool, const RowKernels& kernels) {
  pool.Run(args.x.rows, 2, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      const float* cos_sin = args.cos_sin + t * args.rotary_dims;
      for (int64_t h = 0; h < args.heads; ++h) {
        kernels.rope(args.x.f32(t) + h * args.head_dim + args.rotary_begin, cos_sin,
                     args.rotary_dims, args.pairs);
      }
    }
  });
}

}  // namespace qianyi::cpu
