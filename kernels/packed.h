// The one layout of weight matrices, on disk, in RAM and on every backend.
//
// A matrix W [rows, cols] (out = x Wᵀ) is cut into panels of 16 rows; the last
// panel is padded with zero rows. A panel holds all its columns:
//
//   f32          [cols][16]
//   f16, bf16    [cols/2][16][2]              cols padded with zeros to even
//   int8         f32 row_scale[16], then tiles of 64 columns, [16 quads][16 rows][4]
//   int4         f32 row_scale[16], then (if group > 0) int8 group_scale[groups][16]
//                padded to a multiple of 64 bytes, then tiles of 64 columns of 512
//                bytes, [8 quads][16 rows][4]: the low nibble of a byte belongs to
//                columns 0..31 of the tile, the high nibble to columns 32..63
//
// A quad is four consecutive columns of one row, so one 32-bit lane is one output
// row: what VNNI, AMX (B tiles) and mma fragments all want. Integer panels pad cols
// to 64 with weight 0. Panel sizes are multiples of 64 bytes; panels follow each other.
//
//   int8: w = q * row_scale, q in -127..127
//   int4: w = (u - 8) * group_scale * row_scale, u in 0..15, group_scale in -15..16
//         (1 when group == 0), so that every product fits int8 and an integer
//         accumulator can run over the whole inner dimension; docs/numerics.md.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/tensor.h"

namespace qianyi {

inline constexpr int kPanelRows = 16;
inline constexpr int kTileCols = 64;

struct PackedFormat {
  DType dtype = DType::kF32;
  int group = 0;  // int4 only: columns per group scale (32, 64 or 128); 0 = per row

  bool integer() const { return dtype == DType::kI8 || dtype == DType::kI4; }
  friend bool operator==(const PackedFormat&, const PackedFormat&) = default;
};

// True for the formats above; anything else must be refused before it gets here.
bool IsValid(PackedFormat format);

// Bytes of one panel of 16 rows with `cols` columns.
size_t PanelBytes(PackedFormat format, int64_t cols);
// Bytes of ceil(rows / 16) panels.
size_t PackedBytes(PackedFormat format, int64_t rows, int64_t cols);
// Byte offset, inside a panel, of the group scales (int4 with groups) and of the tiles.
size_t GroupScaleOffset(PackedFormat format);
size_t TileOffset(PackedFormat format, int64_t cols);
// Groups of a row: ceil(cols / group), 0 when there are none.
int64_t GroupCount(PackedFormat format, int64_t cols);

// A row block: `rows` rows starting at a panel boundary. Does not own `data`,
// which must be 64-byte aligned for the fast kernels.
struct PackedRows {
  const std::byte* data = nullptr;
  PackedFormat format;
  int64_t rows = 0;
  int64_t cols = 0;
  // Above 0: several blocks, each of so many rows (a multiple of 16) but perhaps the last; the i-th
  // is at blocks[i]. Only the CPU's `linear` takes these.
  int64_t block_rows = 0;
  const std::byte* const* blocks = nullptr;

  friend bool operator==(const PackedRows&, const PackedRows&) = default;
};

// Packs `rows` rows of f32 [rows, cols] (row stride `stride` elements), quantizing
// as the format says: int8 scale = absmax/127; int4 scales chosen to minimise the
// squared error of each group. `out` takes PackedBytes(). Deterministic; no state.
void PackRows(PackedFormat format, const float* source, int64_t rows, int64_t cols, int64_t stride,
              std::byte* out);

// Packs integers as they are, for checkpoints that are quantized already: values [rows,
// cols] (row stride `stride`; int8 -127..127, int4 -8..7), row_scale [rows] and, for int4
// with groups, group_scale [rows, GroupCount()] in -15..16, else null.
void PackIntegers(PackedFormat format, const int8_t* values, const float* row_scale,
                  const int8_t* group_scale, int64_t rows, int64_t cols, int64_t stride,
                  std::byte* out);

// The value of every weight as f32 [rows, cols]: what the kernels multiply by.
void UnpackRows(const PackedRows& packed, float* out);
// The same of one row: out [cols].
void UnpackRow(const PackedRows& packed, int64_t row, float* out);

// IEEE half and bfloat16 conversions, round to nearest even.
float HalfToFloat(uint16_t value);
uint16_t FloatToHalf(float value);
float BFloat16ToFloat(uint16_t value);
uint16_t FloatToBFloat16(float value);

}  // namespace qianyi
