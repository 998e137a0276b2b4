#include "kernels/packed.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/cpu/dispatch.h"

namespace qianyi {
namespace {

constexpr int64_t kRowScaleBytes = kPanelRows * sizeof(float);
constexpr int64_t kInt8TileBytes = kPanelRows * kTileCols;
constexpr int64_t kInt4TileBytes = kInt8TileBytes / 2;

int64_t RoundUp(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Byte of column `col` of row `row` of a panel, from the first tile on.
int64_t Int8At(int64_t row, int64_t col) {
  return col / kTileCols * kInt8TileBytes + col % kTileCols / 4 * 64 + row * 4 + col % 4;
}
int64_t Int4At(int64_t row, int64_t col) {
  return col / kTileCols * kInt4TileBytes + col % 32 / 4 * 64 + row * 4 + col % 4;
}
// Element of a 16-bit panel.
int64_t PairAt(int64_t row, int64_t col) { return (col / 2 * kPanelRows + row) * 2 + col % 2; }

void PackFloatPanel(PackedFormat format, const float* source, int64_t rows, int64_t cols,
                    int64_t stride, std::byte* panel) {
  std::memset(panel, 0, PanelBytes(format, cols));
  if (format.dtype == DType::kF32) {
    float* out = reinterpret_cast<float*>(panel);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < cols; ++c) out[c * kPanelRows + r] = source[r * stride + c];
    }
    return;
  }
  const auto convert = format.dtype == DType::kF16 ? FloatToHalf : FloatToBFloat16;
  uint16_t* out = reinterpret_cast<uint16_t*>(panel);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) out[PairAt(r, c)] = convert(source[r * stride + c]);
  }
}

// The integers of up to 16 rows; those that are absent are zero rows.
void PackIntegerPanel(PackedFormat format, const int8_t* values, const float* row_scale,
                      const int8_t* group_scale, int64_t rows, int64_t cols, int64_t stride,
                      std::byte* panel) {
  const int64_t groups = GroupCount(format, cols);
  const size_t tile_offset = TileOffset(format, cols);
  std::byte* tiles = panel + tile_offset;
  std::memset(panel, 0, tile_offset);
  std::memcpy(panel, row_scale, rows * sizeof(float));
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t g = 0; g < groups; ++g) {
      panel[kRowScaleBytes + g * kPanelRows + r] =
          static_cast<std::byte>(group_scale[r * groups + g]);
    }
  }
  const bool int8 = format.dtype == DType::kI8;
  // A nibble of 8 is a weight of zero.
  std::memset(tiles, int8 ? 0 : 0x88, PanelBytes(format, cols) - tile_offset);
  for (int64_t r = 0; r < rows; ++r) {
    const int8_t* row = values + r * stride;
    if (int8) {
      for (int64_t c = 0; c < cols; ++c) tiles[Int8At(r, c)] = static_cast<std::byte>(row[c]);
      continue;
    }
    for (int64_t c = 0; c < cols; ++c) {
      // Adding 8 to a nibble that holds 8 is flipping bits: 8 ^ 8 ^ u = u.
      const int nibble = (8 ^ (row[c] + 8)) & 15;
      tiles[Int4At(r, c)] ^= static_cast<std::byte>(c % kTileCols < 32 ? nibble : nibble << 4);
    }
  }
}

void QuantizeInt8Row(const float* x, int64_t cols, float* row_scale, int8_t* values) {
  float absmax = 0.0f;
  bool finite = true;
  for (int64_t c = 0; c < cols; ++c) {
    finite = finite && std::isfinite(x[c]);
    absmax = std::max(absmax, std::fabs(x[c]));
  }
  if (!finite || absmax < 0x1p-100f) {  // 127 / absmax must be finite
    *row_scale = finite ? 0.0f : NAN;   // a bad weight shows up in every output
    std::memset(values, 0, cols);
    return;
  }
  *row_scale = absmax / 127.0f;
  const float inverse = 127.0f / absmax;
  const float magic = 0x1.8p23f;  // rounds to a whole number, ties to even
  for (int64_t c = 0; c < cols; ++c) {
    const float q = (x[c] * inverse + magic) - magic;
    values[c] = static_cast<int8_t>(std::min(127.0f, std::max(-127.0f, q)));
  }
}

float FloatAt(PackedFormat format, const std::byte* panel, int64_t row, int64_t col) {
  if (format.dtype == DType::kF32) {
    return reinterpret_cast<const float*>(panel)[col * kPanelRows + row];
  }
  const uint16_t bits = reinterpret_cast<const uint16_t*>(panel)[PairAt(row, col)];
  return format.dtype == DType::kF16 ? HalfToFloat(bits) : BFloat16ToFloat(bits);
}

}  // namespace

bool IsValid(PackedFormat format) {
  switch (format.dtype) {
    case DType::kF32:
    case DType::kF16:
    case DType::kBF16:
    case DType::kI8:
      return format.group == 0;
    case DType::kI4:
      return format.group == 0 || format.group == 32 || format.group == 64 || format.group == 128;
  }
  return false;
}

int64_t GroupCount(PackedFormat format, int64_t cols) {
  return format.group == 0 ? 0 : (cols + format.group - 1) / format.group;
}

size_t GroupScaleOffset(PackedFormat) { return kRowScaleBytes; }

size_t TileOffset(PackedFormat format, int64_t cols) {
  if (!format.integer()) return 0;
  return kRowScaleBytes + RoundUp(GroupCount(format, cols) * kPanelRows, 64);
}

size_t PanelBytes(PackedFormat format, int64_t cols) {
  switch (format.dtype) {
    case DType::kF32:
      return cols * kPanelRows * 4;
    case DType::kF16:
    case DType::kBF16:
      return RoundUp(cols, 2) * kPanelRows * 2;
    case DType::kI8:
      return TileOffset(format, cols) + RoundUp(cols, kTileCols) / kTileCols * kInt8TileBytes;
    case DType::kI4:
      return TileOffset(format, cols) + RoundUp(cols, kTileCols) / kTileCols * kInt4TileBytes;
  }
  return 0;
}

size_t PackedBytes(PackedFormat format, int64_t rows, int64_t cols) {
  return PanelBytes(format, cols) * ((rows + kPanelRows - 1) / kPanelRows);
}

void PackIntegers(PackedFormat format, const int8_t* values, const float* row_scale,
                  const int8_t* group_scale, int64_t rows, int64_t cols, int64_t stride,
                  std::byte* out) {
  const size_t panel_bytes = PanelBytes(format, cols);
  const int64_t groups = GroupCount(format, cols);
  for (int64_t r = 0; r < rows; r += kPanelRows) {
    PackIntegerPanel(
        format, values + r * stride, row_scale + r, groups > 0 ? group_scale + r * groups : nullptr,
        std::min<int64_t>(kPanelRows, rows - r), cols, stride, out + r / kPanelRows * panel_bytes);
  }
}

void PackRows(PackedFormat format, const float* source, int64_t rows, int64_t cols, int64_t stride,
              std::byte* out) {
  const size_t panel_bytes = PanelBytes(format, cols);
  if (!format.integer()) {
    for (int64_t r = 0; r < rows; r += kPanelRows) {
      PackFloatPanel(format, source + r * stride, std::min<int64_t>(kPanelRows, rows - r), cols,
                     stride, out + r / kPanelRows * panel_bytes);
    }
    return;
  }
  const int64_t groups = GroupCount(format, cols);
  const cpu::RowKernels& kernels = cpu::BestRowKernels();
  std::vector<int8_t> values(kPanelRows * cols);
  std::vector<int8_t> group_scale(kPanelRows * groups);
  float row_scale[kPanelRows];
  for (int64_t r = 0; r < rows; r += kPanelRows) {
    const int64_t count = std::min<int64_t>(kPanelRows, rows - r);
    for (int64_t i = 0; i < count; ++i) {
      const float* row = source + (r + i) * stride;
      if (format.dtype == DType::kI8) {
        QuantizeInt8Row(row, cols, &row_scale[i], values.data() + i * cols);
      } else {
        kernels.quantize_int4(row, cols, format.group, &row_scale[i],
                              group_scale.data() + i * groups, values.data() + i * cols);
      }
    }
    PackIntegers(format, values.data(), row_scale, group_scale.data(), count, cols, cols,
                 out + r / kPanelRows * panel_bytes);
  }
}

void UnpackRow(const PackedRows& packed, int64_t row, float* out) {
  const PackedFormat format = packed.format;
  const std::byte* panel = packed.data + row / kPanelRows * PanelBytes(format, packed.cols);
  row %= kPanelRows;
  if (!format.integer()) {
    for (int64_t c = 0; c < packed.cols; ++c) out[c] = FloatAt(format, panel, row, c);
    return;
  }
  const std::byte* tiles = panel + TileOffset(format, packed.cols);
  const float row_scale = reinterpret_cast<const float*>(panel)[row];
  if (format.dtype == DType::kI8) {
    for (int64_t c = 0; c < packed.cols; ++c) {
      out[c] = static_cast<float>(static_cast<int8_t>(tiles[Int8At(row, c)])) * row_scale;
    }
    return;
  }
  const std::byte* group_scales = panel + GroupScaleOffset(format);
  for (int64_t c = 0; c < packed.cols; ++c) {
    const int byte = static_cast<int>(tiles[Int4At(row, c)]);
    int weight = (c % kTileCols < 32 ? byte & 15 : byte >> 4) - 8;
    if (format.group > 0) {
      weight *= static_cast<int8_t>(group_scales[c / format.group * kPanelRows + row]);
    }
    out[c] = static_cast<float>(weight) * row_scale;
  }
}

void UnpackRows(const PackedRows& packed, float* out) {
  for (int64_t r = 0; r < packed.rows; ++r) UnpackRow(packed, r, out + r * packed.cols);
}

}  // namespace qianyi
