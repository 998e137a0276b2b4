// Products of a tile of rows with one panel of weights, by a block: what linear.cu and
// expert_linear.cu launch. Orders of summing: linear_slices.h.
#pragma once

#include <type_traits>

#include "kernels/cuda/linear_half.h"
#include "kernels/cuda/linear_slices.h"

namespace qianyi::cuda::QIANYI_FLAVOUR {

// One block's work: one panel and a tile of 8 · kTokenTiles rows. Its warps take slices in turn.
template <template <int> typename Slice, int kTokenTiles>
struct LinearBlock {
  static constexpr int kWarps = 8, kThreads = kWarps * 32;
  static constexpr int kTokens = kTokenTiles * kTileTokens;
  static constexpr int kStride = 20;  // of a token's 16 rows: lanes write to banks of their own
  static constexpr int kOutputs = kTokens * kPanelRows;
  static constexpr int kOwn = kOutputs > kThreads ? kOutputs / kThreads : 1;
  using Sum = typename Slice<kTokenTiles>::Sum;
  static constexpr bool kFloat = std::is_same_v<Sum, float>;
  const LinearTask& task;
  const RowTile tile;

  QIANYI_DEVICE void Run(int64_t panel) const {
    QIANYI_SHARED(Sum, sums, kWarps * kTokens * kStride);
    const Slice<kTokenTiles> multiply(task, tile);
    float y[kOwn] = {};
    for (int64_t round = 0; round < task.slices; round += kWarps) {
      if (round + Warp() < task.slices) {
        Sum sum[kTokenTiles][4] = {};
        multiply(panel, round + Warp(), sum);
        for (int n = 0; n < kTokenTiles; ++n) {
          for (int i = 0; i < 4; ++i) {
            const int token = n * kTileTokens + Lane() % 4 * 2 + i % 2;
            const int row = Lane() / 4 + i / 2 * 8;
            sums.Store((Warp() * kTokens + token) * kStride + row, sum[n][i]);
          }
        }
      }
      Barrier();
      AddSlices(sums, round, y);
      Barrier();
    }
    for (int i = 0; i < kOwn; ++i) {
      const int output = ThreadIndex() + i * kThreads;
      const int64_t t = tile.begin + output / kPanelRows;
      const int64_t row = panel * kPanelRows + output % kPanelRows;
      if (output >= kOutputs || t >= tile.end || row >= task.args.weight.rows) continue;
      if constexpr (!kFloat) {
        y[i] *= FloatOf(task.Panel(tile.weights, panel).Load(output % kPanelRows));
      }
      task.Finish(t, row, y[i]);
    }
  }

  // In index order, whatever warp had them.
  QIANYI_DEVICE void AddSlices(const Shared<Sum>& sums, int64_t round, float (&y)[kOwn]) const {
    for (int i = 0; i < kOwn; ++i) {
      const int output = ThreadIndex() + i * kThreads;
      const int64_t t = tile.begin + output / kPanelRows;
      if (output >= kOutputs || t >= tile.end) continue;
      for (int64_t slice = round; slice < round + kWarps && slice < task.slices; ++slice) {
        const Sum sum = sums.Load(((slice - round) * kTokens + output / kPanelRows) * kStride +
                                  output % kPanelRows);
        if constexpr (kFloat) {
          y[i] = slice == 0 ? sum : y[i] + sum;
        } else {
          const Global<const float> scales(
              task.args.quantized.scales + tile.Source(t) * task.slices, task.slices);
          y[i] = Fma(static_cast<float>(sum), scales.Load(slice), y[i]);
        }
      }
    }
  }
};

// One panel and a tile of kTokens rows; a thread sums one slice of one row.
struct FloatLinearBlock {
  static constexpr int kThreads = 256, kSlicesAtOnce = kThreads / kPanelRows, kTokens = 4;
  const LinearTask& task;
  const RowTile tile;

  QIANYI_DEVICE void Run(int64_t panel_index) const {
    QIANYI_SHARED(float, sums, kTokens* kThreads);
    const int row = ThreadIndex() % kPanelRows;
    const int64_t cols = task.args.weight.cols, t = tile.begin + ThreadIndex() / kPanelRows;
    const Global<const uint32_t> panel = task.Panel(tile.weights, panel_index);
    float y = 0.0f;  // threads below kTokens · 16: of row t of the tile
    for (int64_t round = 0; round < task.slices; round += kSlicesAtOnce) {
      const int64_t begin = (round + ThreadIndex() / kPanelRows) * kSliceCols;
      const int64_t end = begin + kSliceCols < cols ? begin + kSliceCols : cols;
      for (int n = 0; n < kTokens; ++n) {
        if (tile.begin + n >= tile.end) continue;
        const Global<float> x = RowOf(task.args.x, tile.Source(tile.begin + n));
        float sum = 0.0f;
        for (int64_t k = begin; k < end; ++k) {
          sum = Fma(x.Load(k), FloatOf(panel.Load(k * kPanelRows + row)), sum);
        }
        sums.Store(n * kThreads + ThreadIndex(), sum);
      }
      Barrier();
      if (ThreadIndex() < kTokens * kPanelRows && t < tile.end) {
        for (int64_t s = 0; s < kSlicesAtOnce && round + s < task.slices; ++s) {
          const float sum = sums.Load(ThreadIndex() / kPanelRows * kThreads + s * kPanelRows + row);
          y = round + s == 0 ? sum : y + sum;
        }
      }
      Barrier();
    }
    const int64_t out_row = panel_index * kPanelRows + row;
    if (ThreadIndex() < kTokens * kPanelRows && t < tile.end && out_row < task.args.weight.rows) {
      task.Finish(t, out_row, y);
    }
  }
};

}  // namespace qianyi::cuda::QIANYI_FLAVOUR
