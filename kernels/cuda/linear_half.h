// The slices of linear_slices.h for weights in f16 and bf16.
#pragma once

#include "kernels/cuda/linear_slices.h"

namespace qianyi::cuda::QIANYI_FLAVOUR {

template <int kTokenTiles>
struct HalfSlice {
  using Sum = float;
  const LinearTask& task;
  const std::byte* weights;
  LaneSources<kTokenTiles> sources;

  QIANYI_DEVICE HalfSlice(const LinearTask& of, const RowTile& tile)
      : task(of), weights(tile.weights), sources(tile) {}

  QIANYI_DEVICE void operator()(int64_t panel_index, int64_t slice,
                                float (&sum)[kTokenTiles][4]) const {
    const Global<const uint32_t> panel = task.Panel(weights, panel_index);
    const int64_t cols = task.args.weight.cols, begin = slice * kSliceCols;
    const int64_t end = begin + kSliceCols < cols ? begin + kSliceCols : cols;
    const bool bfloat = task.args.weight.format.dtype == DType::kBF16;
    const int64_t pairs = (cols + 1) / 2;
    for (int64_t col = begin; col < end; col += 16) {
      uint32_t word[4] = {}, even[4], odd[4];
      const int64_t pair = col / 2 + Lane() % 4, at = pair * kPanelRows + Lane() / 4;
      if (pair < pairs) {
        word[0] = panel.template LoadOnce<uint32_t>(at);
        word[1] = panel.template LoadOnce<uint32_t>(at + 8);
      }
      if (pair + 4 < pairs) {
        word[2] = panel.template LoadOnce<uint32_t>(at + 64);
        word[3] = panel.template LoadOnce<uint32_t>(at + 72);
      }
      for (int i = 0; i < 4; ++i) {
        even[i] = bfloat ? word[i] << 16 : BitsOf(FloatOfHalf(static_cast<uint16_t>(word[i])));
        odd[i] = bfloat ? word[i] & 0xffff0000u
                        : BitsOf(FloatOfHalf(static_cast<uint16_t>(word[i] >> 16)));
      }
      for (int n = 0; n < kTokenTiles; ++n) {
        Multiply(even, col, sources.row[n], sum[n]);
        Multiply(odd, col + 1, sources.row[n], sum[n]);
      }
    }
  }

  // Columns col, col + 2, … col + 14 of one row of x.
  QIANYI_DEVICE void Multiply(const uint32_t (&a)[4], int64_t col, int64_t source,
                              float (&sum)[4]) const {
    uint32_t high[2], low[2];
    for (int i = 0; i < 2; ++i) {
      const int64_t c = col + 2 * (Lane() % 4) + 8 * i;
      const bool inside = source >= 0 && c < task.args.weight.cols;
      const float x = inside ? RowOf(task.args.x, source).Load(c) : 0.0f;
      high[i] = BitsOf(x) & 0xffffe000u;
      low[i] = BitsOf(x - FloatOf(high[i]));
    }
    MmaTf32(sum, a, high);
    MmaTf32(sum, a, low);
  }
};

}  // namespace qianyi::cuda::QIANYI_FLAVOUR
