#include <algorithm>

#include "kernels/cpu/drivers.h"

namespace qianyi::cpu {
namespace {

// Elements are independent, so rows are cut too: one long row is work for every worker.
constexpr int64_t kPieceCols = 4096;

template <typename Piece>
void ForEachPiece(const Tensor& x, ThreadPool& pool, const Piece& piece) {
  const int64_t pieces = (x.cols + kPieceCols - 1) / kPieceCols;
  pool.Run(x.rows * pieces, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t column = i % pieces * kPieceCols;
      piece(i / pieces, column, std::min(kPieceCols, x.cols - column));
    }
  });
}

}  // namespace

void RunActivate(const Activate& args, ThreadPool& pool, const RowKernels& kernels) {
  ForEachPiece(args.x, pool, [&](int64_t t, int64_t column, int64_t width) {
    kernels.activate(args.kind, args.x.f32(t) + column, width, args.out.f32(t) + column);
  });
}

void RunGatedActivate(const GatedActivate& args, ThreadPool& pool, const RowKernels& kernels) {
  ForEachPiece(args.gate, pool, [&](int64_t t, int64_t column, int64_t width) {
    kernels.gated_activate(args.kind, args.gate.f32(t) + column, args.value.f32(t) + column, width,
                           args.out.f32(t) + column);
  });
}

}  // namespace qianyi::cpu
