// Products of a tile of rows with one slice of one panel of weights, by a warp. The panels of
// kernels/packed.h are the fragments of mma as they lie: a lane's four words are rows g and g + 8
// of quads (or pairs of 16-bit columns) t and t + 4, and a warp reads whole sectors.
//
// int8, int4: the sums of a slice are exact integers and the slices are added in order, so the
// bits are those of the CPU (docs/numerics.md). f16, bf16: weights are exact in tf32; activations
// are cut into two tf32 parts, which keeps 21 bits of them and the range of f32. A warp sums one
// slice, the slices are added in order. f32: the CPU's order, on plain cores.
#pragma once

#include "kernels/cuda/device_rows.h"
#include "kernels/cuda/linear_task.h"

namespace qianyi::cuda::QIANYI_FLAVOUR {

// Rows [begin, end) of the output, and what they are products of.
struct RowTile {
  const std::byte* weights;
  int64_t begin, end;
  const int32_t* x_rows;  // [rows of the output]: which row of x each is of; null: its own
  int64_t x_row_count;

  QIANYI_DEVICE int64_t Source(int64_t row) const {
    return x_rows == nullptr ? row : Global<const int32_t>(x_rows, x_row_count).Load(row);
  }
};

// Rows of x of this lane in kTokenTiles fragments; -1: none.
template <int kTokenTiles>
struct LaneSources {
  int64_t row[kTokenTiles];

  QIANYI_DEVICE explicit LaneSources(const RowTile& tile) {
    for (int n = 0; n < kTokenTiles; ++n) {
      const int64_t at = tile.begin + n * kTileTokens + Lane() / 4;
      row[n] = at < tile.end ? tile.Source(at) : -1;
    }
  }
};

// Sums of one slice for kTokenTiles · 8 tokens of a tile, as this lane has them.
template <int kTokenTiles>
struct IntegerSlice {
  using Sum = int32_t;
  const LinearTask& task;
  const std::byte* weights;
  LaneSources<kTokenTiles> sources;

  QIANYI_DEVICE IntegerSlice(const LinearTask& of, const RowTile& tile)
      : task(of), weights(tile.weights), sources(tile) {}

  QIANYI_DEVICE void operator()(int64_t panel_index, int64_t slice,
                                int32_t (&sum)[kTokenTiles][4]) const {
    const Global<const uint32_t> panel = task.Panel(weights, panel_index);
    const int64_t all = task.padded_cols / kTileCols, begin = slice * (kSliceCols / kTileCols);
    const int64_t end = begin + kSliceCols / kTileCols < all ? begin + kSliceCols / kTileCols : all;
    for (int64_t tile = begin; tile < end; ++tile) {
      if (task.args.weight.format.dtype == DType::kI8) {
        for (int half = 0; half < 2; ++half) {
          uint32_t a[4];
          LoadFragment(panel, (task.tile_offset + tile * 1024) / 4 + half * 128, a);
          Multiply(a, tile * kTileCols + half * 32, sum);
        }
      } else {
        Int4Tile(panel, tile, sum);
      }
    }
  }

  QIANYI_DEVICE void Int4Tile(const Global<const uint32_t>& panel, int64_t tile,
                              int32_t (&sum)[kTokenTiles][4]) const {
    uint32_t word[4], low[4], high[4];
    LoadFragment(panel, (task.tile_offset + tile * 512) / 4, word);
    for (int i = 0; i < 4; ++i) {
      low[i] = SignedNibbles(word[i]);
      high[i] = SignedNibbles(word[i] >> 4);
    }
    const int64_t col = tile * kTileCols;
    const int group = task.args.weight.format.group;
    if (group == 0) {
      Multiply(low, col, sum);
      Multiply(high, col + 32, sum);
      return;
    }
    int32_t part[kTokenTiles][4] = {};
    Multiply(low, col, part);
    if (group == 32) {
      AddScaled(panel, col / 32, part, sum);
      for (auto& tokens : part) {
        for (int32_t& value : tokens) value = 0;
      }
    }
    Multiply(high, col + 32, part);
    AddScaled(panel, (col + 32) / group, part, sum);
  }

  QIANYI_DEVICE static void AddScaled(const Global<const uint32_t>& panel, int64_t group,
                                      const int32_t (&part)[kTokenTiles][4],
                                      int32_t (&sum)[kTokenTiles][4]) {
    const GroupScales scales = LoadGroupScales(panel, group);
    for (int n = 0; n < kTokenTiles; ++n) scales.AddTo(part[n], sum[n]);
  }

  // 32 columns from `col` on.
  QIANYI_DEVICE void Multiply(const uint32_t (&a)[4], int64_t col,
                              int32_t (&sum)[kTokenTiles][4]) const {
    for (int n = 0; n < kTokenTiles; ++n) {
      uint32_t b[2] = {};
      if (sources.row[n] >= 0) {
        const Global<const uint32_t> x(
            reinterpret_cast<const uint32_t*>(task.args.quantized.values +
                                              sources.row[n] * task.padded_cols),
            task.padded_cols / 4);
        b[0] = x.Load(col / 4 + Lane() % 4);
        b[1] = x.Load(col / 4 + Lane() % 4 + 4);
      }
      MmaInt8(sum[n], a, b);
    }
  }
};

}  // namespace qianyi::cuda::QIANYI_FLAVOUR
