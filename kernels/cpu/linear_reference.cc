// The definition of a linear layer's arithmetic, with loops and nothing else. The fast
// versions share no code with it.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/cpu/row_kernels.h"

namespace qianyi::cpu {
namespace {

float FloatWeight(const LinearBlock& block, const std::byte* panel, int row, int64_t col) {
  if (block.dtype == DType::kF32) {
    float value;
    std::memcpy(&value, panel + (col * kPanelRows + row) * 4, sizeof(value));
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, panel + ((col / 2 * kPanelRows + row) * 2 + col % 2) * 2, sizeof(bits));
  return block.dtype == DType::kF16 ? HalfToFloat(bits) : BFloat16ToFloat(bits);
}

// The integer weight, group scale included.
int IntegerWeight(const LinearBlock& block, const std::byte* panel, int row, int64_t col) {
  const std::byte* tiles = panel + block.tile_offset;
  const int64_t tile = col / kTileCols, k = col % kTileCols;
  if (block.dtype == DType::kI8) {
    const int64_t at = tile * 1024 + k / 4 * 64 + row * 4 + k % 4;
    return static_cast<int8_t>(tiles[at]);
  }
  const int64_t at = tile * 512 + k % 32 / 4 * 64 + row * 4 + k % 4;
  const int byte = static_cast<int>(tiles[at]);
  const int value = (k < 32 ? byte & 15 : byte >> 4) - 8;
  if (block.group == 0) return value;
  const std::byte* group_scales = panel + 64;
  return value * static_cast<int8_t>(group_scales[col / block.group * kPanelRows + row]);
}

float IntegerOutput(const LinearBlock& block, const std::byte* panel, int row, int64_t token) {
  const int8_t* x = block.values + token * block.padded_cols;
  float y = 0.0f;
  for (int64_t slice = 0; slice < block.slices; ++slice) {
    const int64_t end = std::min<int64_t>((slice + 1) * kSliceCols, block.cols);
    int32_t sum = 0;
    for (int64_t k = slice * kSliceCols; k < end; ++k) {
      sum += IntegerWeight(block, panel, row, k) * x[k];
    }
    y = std::fma(static_cast<float>(sum), block.scales[token * block.slices + slice], y);
  }
  float row_scale;
  std::memcpy(&row_scale, panel + row * 4, sizeof(row_scale));
  return y * row_scale;
}

float FloatOutput(const LinearBlock& block, const std::byte* panel, int row, int64_t token) {
  const float* x = block.x + token * block.x_stride;
  float y = 0.0f;
  for (int64_t begin = 0; begin < block.cols; begin += kSliceCols) {
    float sum = 0.0f;
    for (int64_t k = begin; k < begin + kSliceCols && k < block.cols; ++k) {
      sum = std::fma(x[k], FloatWeight(block, panel, row, k), sum);
    }
    y = begin == 0 ? sum : y + sum;
  }
  return y;
}

}  // namespace

void LinearReference(const LinearBlock& block) {
  const bool integer = block.dtype == DType::kI8 || block.dtype == DType::kI4;
  for (int64_t r = 0; r < block.rows; ++r) {
    const std::byte* panel = block.panels + r / kPanelRows * block.panel_bytes;
    const int row = static_cast<int>(r % kPanelRows);
    for (int64_t t = 0; t < block.tokens; ++t) {
      float y = integer ? IntegerOutput(block, panel, row, t) : FloatOutput(block, panel, row, t);
      if (block.bias != nullptr) y += block.bias[r];
      if (block.residual != nullptr) {
        y = std::fma(block.residual_scale, block.residual[t * block.residual_stride + r], y);
      }
      block.out[t * block.out_stride + r] = y;
    }
  }
}

}  // namespace qianyi::cpu
