// How a linear layer walks its weights, shared by the vector instruction sets. The inner
// part, Dot, multiplies one slice of one or more panels with a few tokens; what it adds up and in
// which order is docs/numerics.md, and nothing here changes it.
//
//   panels in groups     their slices stay in the caches while the tokens pass by
//     tokens in chunks   one float per token and row is kept in scratch
//       slices           in index order
//         panels, tokens
//
// With a few tokens a group is as small as Dot allows, so that weights are read straight on.
#pragma once

#include "kernels/cpu/row_kernels.h"

namespace qianyi::cpu {
namespace {

constexpr int kGroupPanels = 8;
constexpr int kChunkTokens = 128;
constexpr int kFewTokens = 8;
constexpr int kSliceTiles = kSliceCols / kTileCols;
static_assert(sizeof(float) * kGroupPanels * kChunkTokens * kPanelRows < kLinearScratchBytes);

// One slice of the inner dimension for a chunk of tokens.
struct SliceWork {
  const LinearBlock* block;
  int64_t index;
  int64_t begin;  // first column
  int64_t cols;   // columns
  int64_t tiles;  // of 64 columns
  int64_t first_token;
  int64_t tokens;
};

// Weights are read once, far ahead of the processor's own guess.
inline constexpr int64_t kPrefetchBytes = 2048;

// y[0..16) of one token, with the row scales, bias and residual: fields of LinearBlock.
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

template <typename Dot, int kTokens, int kPanels>
void ForTokens(Dot& dot, const SliceWork& work, int64_t panel, int64_t* token, float* y) {
  for (; *token + kTokens <= work.tokens; *token += kTokens) {
    dot.template Multiply<kTokens, kPanels>(work, panel, *token, y + *token * kPanelRows);
  }
}

// All tokens of the chunk with kPanels panels; the y of a panel is [kChunkTokens][16].
template <typename Dot, int kPanels>
void ForPanels(Dot& dot, const SliceWork& work, int64_t panel, float* y) {
  int64_t token = 0;
  if constexpr (Dot::kMostTokens >= 8) ForTokens<Dot, 8, kPanels>(dot, work, panel, &token, y);
  ForTokens<Dot, 4, kPanels>(dot, work, panel, &token, y);
  ForTokens<Dot, 2, kPanels>(dot, work, panel, &token, y);
  ForTokens<Dot, 1, kPanels>(dot, work, panel, &token, y);
}

template <typename V, typename Dot>
void MultiplyPanels(const LinearBlock& block) {
  Dot dot;
  float* y = reinterpret_cast<float*>(block.scratch);  // [panel][kChunkTokens][16]
  constexpr int64_t kPanelY = kChunkTokens * kPanelRows;
  const int64_t panels = (block.rows + kPanelRows - 1) / kPanelRows;
  const int64_t group = block.tokens <= kFewTokens ? Dot::kMostPanels : kGroupPanels;
  for (int64_t first_panel = 0; first_panel < panels; first_panel += group) {
    const int64_t end_panel = first_panel + group < panels ? first_panel + group : panels;
    for (int64_t first = 0; first < block.tokens; first += kChunkTokens) {
      const int64_t left = block.tokens - first;
      SliceWork work{&block, 0, 0, 0, 0, first, left < kChunkTokens ? left : kChunkTokens};
      for (; work.begin < block.cols; ++work.index, work.begin += kSliceCols) {
        const int64_t cols_left = block.cols - work.begin;
        work.cols = cols_left < kSliceCols ? cols_left : kSliceCols;
        work.tiles = (work.cols + kTileCols - 1) / kTileCols;
        dot.Prepare(work);
        int64_t p = first_panel;
        for (; p + Dot::kMostPanels <= end_panel; p += Dot::kMostPanels) {
          ForPanels<Dot, Dot::kMostPanels>(dot, work, p, y + (p - first_panel) * kPanelY);
        }
        for (; p < end_panel; ++p) {
          ForPanels<Dot, 1>(dot, work, p, y + (p - first_panel) * kPanelY);
        }
      }
      for (int64_t p = first_panel; p < end_panel; ++p) {
        const float* row_scale =
            reinterpret_cast<const float*>(block.panels + p * block.panel_bytes);
        for (int64_t t = 0; t < work.tokens; ++t) {
          FinishRow<V, Dot::kScaled>(block, row_scale, p * kPanelRows, first + t,
                                     y + (p - first_panel) * kPanelY + t * kPanelRows);
        }
      }
    }
  }
}

// Float weights: sequential fma within a slice, slices added.
template <typename V, DType kDType>
struct FloatDot {
  static constexpr bool kScaled = false;
  static constexpr int kMostTokens = V::kFloatTokens;
  static constexpr int kMostPanels = V::kFloatPanels;

  void Prepare(const SliceWork&) {}

  template <int kTokens, int kPanels>
  void Multiply(const SliceWork& work, int64_t panel, int64_t token, float* y) {
    const LinearBlock& block = *work.block;
    const float* x[kTokens];
    for (int t = 0; t < kTokens; ++t) {
      x[t] = block.x + (work.first_token + token + t) * block.x_stride + work.begin;
    }
    constexpr int64_t kColBytes = kPanelRows * (kDType == DType::kF32 ? 4 : 2);
    const std::byte* w = block.panels + panel * block.panel_bytes + work.begin * kColBytes;
    V sum[kPanels][kTokens];
    for (int p = 0; p < kPanels; ++p) {
      for (int t = 0; t < kTokens; ++t) sum[p][t] = V::Zero();
    }
    const auto add = [&](int p, V weight, int64_t k) {
      for (int t = 0; t < kTokens; ++t) sum[p][t] = V::Fma(V::Set(x[t][k]), weight, sum[p][t]);
    };
    constexpr int kStep = kDType == DType::kF32 ? 1 : 2;
    int64_t k = 0;
    for (; k + kStep <= work.cols; k += kStep, w += kStep * kColBytes) {
      for (int p = 0; p < kPanels; ++p) {
        const std::byte* here = w + p * block.panel_bytes;
        __builtin_prefetch(here + kPrefetchBytes);
        if constexpr (kDType == DType::kF32) {
          add(p, V::Load(reinterpret_cast<const float*>(here)), k);
        } else {
          V even, odd;
          LoadPairs(here, &even, &odd);
          add(p, even, k);
          add(p, odd, k + 1);
        }
      }
    }
    if (k < work.cols) {  // an odd last column; its partner is padding
      for (int p = 0; p < kPanels; ++p) {
        V even, odd;
        LoadPairs(w + p * block.panel_bytes, &even, &odd);
        add(p, even, k);
      }
    }
    for (int p = 0; p < kPanels; ++p) {
      for (int t = 0; t < kTokens; ++t) {
        float* out = y + (p * kChunkTokens + t) * kPanelRows;
        const V value = work.index == 0 ? sum[p][t] : V::Add(V::Load(out), sum[p][t]);
        value.Store(out);
      }
    }
  }

  static void LoadPairs(const std::byte* p, V* even, V* odd) {
    if constexpr (kDType == DType::kF16) {
      V::LoadHalfPairs(p, even, odd);
    } else if constexpr (kDType == DType::kBF16) {
      V::LoadBf16Pairs(p, even, odd);
    }
  }
};

// Four activations, as one lane of a quad.
inline int32_t Quad(const int8_t* x) {
  int32_t quad;
  __builtin_memcpy(&quad, x, sizeof(quad));
  return quad;
}

}  // namespace
}  // namespace qianyi::cpu
