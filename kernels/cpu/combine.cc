#include <algorithm>

#include "kernels/cpu/drivers.h"

namespace qianyi::cpu {
namespace {

// Columns are independent: one token is work for several workers.
constexpr int64_t kPieceCols = 2048;

}  // namespace

void RunCombine(const Combine& args, ThreadPool& pool, const RowKernels& kernels) {
  const int64_t pieces = (args.out.cols + kPieceCols - 1) / kPieceCols;
  pool.Run(args.out.rows * pieces, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t t = i / pieces, column = i % pieces * kPieceCols;
      kernels.combine(args.rows.f32() + column, args.rows.stride, args.ids + t * args.count,
                      args.weights + t * args.count, args.count,
                      std::min(kPieceCols, args.out.cols - column), args.out.f32(t) + column);
    }
  });
}

}  // namespace qianyi::cpu
