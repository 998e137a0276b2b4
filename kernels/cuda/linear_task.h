// What the kernels of a linear layer are given, and how they read weights.
#pragma once

#include "kernels/cuda/device_rows.h"

namespace qianyi::cuda::QIANYI_FLAVOUR {

inline constexpr int kTileTokens = 8;  // of one fragment

struct LinearTask {
  Linear args;
  int64_t tokens, panel_bytes, tile_offset;
  int64_t padded_cols, slices;

  QIANYI_DEVICE Global<const uint32_t> Panel(int64_t panel) const {
    return Panel(args.weight.data, panel);
  }
  // Of a matrix like args.weight.
  QIANYI_DEVICE Global<const uint32_t> Panel(const std::byte* weights, int64_t panel) const {
    return Global<const uint32_t>(reinterpret_cast<const uint32_t*>(weights + panel * panel_bytes),
                                  panel_bytes / 4);
  }
  // Writes row `row` of token t, whose product is y.
  QIANYI_DEVICE void Finish(int64_t t, int64_t row, float y) const {
    if (args.bias != nullptr) y += Global<const float>(args.bias, args.weight.rows).Load(row);
    if (args.residual.data != nullptr) {
      y = Fma(args.residual_scale, RowOf(args.residual, t).Load(row), y);
    }
    RowOf(args.out, t).Store(row, y);
  }
};

inline LinearTask TaskOf(const Linear& args) {
  const PackedFormat format = args.weight.format;
  return {.args = args,
          .tokens = format.integer() ? args.quantized.rows : args.x.rows,
          .panel_bytes = static_cast<int64_t>(PanelBytes(format, args.weight.cols)),
          .tile_offset = static_cast<int64_t>(TileOffset(format, args.weight.cols)),
          .padded_cols = CeilDiv(args.weight.cols, kTileCols) * kTileCols,
          .slices = CeilDiv(args.weight.cols, kSliceCols)};
}

// The four words of this lane, of 512 bytes from word `base` on.
QIANYI_DEVICE inline void LoadFragment(const Global<const uint32_t>& panel, int64_t base,
                                       uint32_t (&a)[4]) {
  const int64_t at = base + Lane() % 4 * 16 + Lane() / 4;
  a[0] = panel.LoadOnce<uint32_t>(at);
  a[1] = panel.LoadOnce<uint32_t>(at + 8);
  a[2] = panel.LoadOnce<uint32_t>(at + 64);
  a[3] = panel.LoadOnce<uint32_t>(at + 72);
}

// u - 8 of each low nibble, as bytes with sign: 7 bits stay, and where bit 3 is missing the five
// above are set (8 · 31 = 0xf8).
QIANYI_DEVICE inline uint32_t SignedNibbles(uint32_t word) {
  return (word & 0x07070707u) | (~word & 0x08080808u) * 31u;
}

// The scales of rows g and g + 8 in one group.
struct GroupScales {
  int32_t low, high;

  QIANYI_DEVICE void AddTo(const int32_t (&part)[4], int32_t (&sum)[4]) const {
    for (int i = 0; i < 4; ++i) sum[i] += (i < 2 ? low : high) * part[i];
  }
};
QIANYI_DEVICE inline GroupScales LoadGroupScales(const Global<const uint32_t>& panel,
                                                 int64_t group) {
  // Behind 64 bytes of row scales: 16 rows of each group, a byte each.
  const int64_t at = 16 + group * 4 + Lane() / 16;
  const int shift = Lane() / 4 % 4 * 8;
  return {static_cast<int8_t>(panel.Load(at) >> shift),
          static_cast<int8_t>(panel.Load(at + 2) >> shift)};
}

// From this many tokens on, arithmetic is the bound.
inline constexpr int64_t kLargeTokens = 33;
void RunLargeIntegerLinear(const LinearTask& task, int64_t panels, Stream stream);

}  // namespace qianyi::cuda::QIANYI_FLAVOUR
