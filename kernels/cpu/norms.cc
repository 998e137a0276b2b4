#include "kernels/cpu/drivers.h"

namespace qianyi::cpu {
namespace {

constexpr int64_t kGrain = 4;  // rows: a few microseconds

// Dividing x by s is dividing the epsilon by 1/s²: the norm is the same but for rounding. A row of
// zeros has no maximum to divide by.
float ScaledEpsilon(float epsilon, float max_scale, float max) {
  const float s = max / max_scale;
  return s > 0.0f ? epsilon * s * s : epsilon;
}

}  // namespace

void RunLayerNorm(const LayerNorm& args, ThreadPool& pool, const RowKernels& kernels) {
  pool.Run(args.x.rows, kGrain, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      float epsilon = args.epsilon;
      if (args.max_scale > 0.0f) {
        const float max = kernels.max_abs(args.x.f32(t), args.x.cols);
        epsilon = ScaledEpsilon(epsilon, args.max_scale, max);
      }
      kernels.layer_norm(args.x.f32(t), args.weight, args.bias, epsilon, args.x.cols,
                         args.out.f32(t));
    }
  });
}

void RunRmsNorm(const RmsNorm& args, ThreadPool& pool, const RowKernels& kernels) {
  pool.Run(args.x.rows, kGrain, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      kernels.rms_norm(args.x.f32(t), args.weight, args.epsilon, args.x.cols, args.out.f32(t));
    }
  });
}

}  // namespace qianyi::cpu
