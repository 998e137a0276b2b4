#include "kernels/cpu/drivers.h"

namespace qianyi::cpu {
namespace {

constexpr int64_t kGrain = 4;  // rows: a few microseconds

}  // namespace

void RunLayerNorm(const LayerNorm& args, ThreadPool& pool, const RowKernels& kernels) {
  pool.Run(args.x.rows, kGrain, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      kernels.layer_norm(args.x.f32(t), args.weight, args.bias, args.epsilon, args.x.cols,
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
