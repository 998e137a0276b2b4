// One slice of a linear layer's inner dimension, and the end of a row: what all ways of
// walking the weights share.
#pragma once

#include "kernels/cpu/row_kernels.h"

namespace qianyi::cpu {
namespace {

constexpr int64_t kGroupPanels = 32;
constexpr int64_t kChunkTokens = 64;
constexpr int64_t kPassElements = 64 << 10;  // 4 bytes: a float or four int8
constexpr int64_t kPassRows = kPassElements / (kSliceCols / 4);
constexpr int64_t kPassSlices = 64;
constexpr int64_t kHalves = kSliceCols / 32;  // sums of 32 activations in a slice
constexpr int64_t kSliceTiles = kSliceCols / kTileCols;

struct LinearScratch {
  float y[kGroupPanels][kChunkTokens][kPanelRows];
  int32_t x[kPassElements];
  int32_t start[kPassRows][kHalves];  // for Dot: by slice of the pass and token
  int8_t group_scales[kPassSlices * kHalves][kPanelRows];  // of one panel
};
static_assert(sizeof(LinearScratch) <= kScratchBytes);

// One slice of the inner dimension for a chunk of tokens.
struct SliceWork {
  const LinearBlock* block;
  LinearScratch* scratch;
  int64_t index;
  int64_t begin;  // first column
  int64_t cols;
  int64_t tiles;  // of 64 columns
  int64_t first_token;
  int64_t tokens;
  int64_t first_row;   // of the pass: its first token's row in scratch->start
  int64_t pass_index;  // of the slice in the pass
};

inline SliceWork SliceAt(const LinearBlock& block, LinearScratch* scratch, int64_t index,
                         int64_t first_token, int64_t tokens, int64_t first_slice) {
  SliceWork work{};
  work.block = &block;
  work.scratch = scratch;
  work.index = index;
  work.begin = index * kSliceCols;
  const int64_t left = block.cols - work.begin;
  work.cols = left < kSliceCols ? left : kSliceCols;
  work.tiles = (work.cols + kTileCols - 1) / kTileCols;
  work.first_token = first_token;
  work.tokens = tokens;
  work.pass_index = index - first_slice;
  work.first_row = work.pass_index * tokens;
  return work;
}

// y[0..16) of one token, with the row scales, bias and residual.
template <typename V, bool kScaled>
void FinishRow(const LinearBlock& block, const float* row_scale, int64_t row, int64_t token,
               const float* y) {
  const int64_t n = block.rows - row < kPanelRows ? block.rows - row : kPanelRows;
  V value = V::Load(y);
  if constexpr (kScaled) value = V::Mul(value, V::Load(row_scale));
  const float* residual =
      block.residual == nullptr ? nullptr : block.residual + token * block.residual_stride + row;
  float* out = block.out + token * block.out_stride + row;
  if (n == kPanelRows) {
    if (block.bias != nullptr) value = V::Add(value, V::Load(block.bias + row));
    if (residual != nullptr) {
      value = V::Fma(V::Set(block.residual_scale), V::Load(residual), value);
    }
    value.Store(out);
    return;
  }
  if (block.bias != nullptr) value = V::Add(value, V::LoadFirst(block.bias + row, n));
  if (residual != nullptr) {
    value = V::Fma(V::Set(block.residual_scale), V::LoadFirst(residual, n), value);
  }
  value.StoreFirst(out, n);
}

}  // namespace
}  // namespace qianyi::cpu
