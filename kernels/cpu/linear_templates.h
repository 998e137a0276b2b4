// How a linear layer walks its weights, shared by the vector instruction sets. The inner
// part, Dot, multiplies one slice of a panel with a few tokens; what is added up in which
// order is docs/numerics.md, and nothing here changes it.
//
//   panels in groups, tokens in chunks   one float per row and token is kept: y
//     passes over the inner dimension    activations are laid out anew: Pack
//       panels                           weights are read straight on
//         slices, blocks of tokens
#pragma once

#include "kernels/cpu/linear_slice.h"
#include "kernels/cpu/transpose.h"
#include "kernels/cpu/unroll.h"

namespace qianyi::cpu {
namespace {

// Calls block(token, width) over the tokens, in blocks of kMost, …, 4, 2, 1.
template <int kMost, typename Block>
void ForTokenBlocks(int64_t tokens, Block block) {
  int64_t token = 0;
  for (; token + kMost <= tokens; token += kMost) block.template operator()<kMost>(token);
  if constexpr (kMost > 4) {
    for (; token + 4 <= tokens; token += 4) block.template operator()<4>(token);
  }
  if constexpr (kMost > 2) {
    for (; token + 2 <= tokens; token += 2) block.template operator()<2>(token);
  }
  for (; token < tokens; ++token) block.template operator()<1>(token);
}

// Activations of a block of tokens: element e of token t of the block is at
// [e * width + t], so that a dot product walks one stream of memory.
template <typename Dot>
int32_t* PackedX(const SliceWork& work, int64_t token) {
  return work.scratch->x + (work.first_row + token) * Dot::kSliceElements;
}

template <typename Dot>
void PackSlice(const SliceWork& work) {
  const LinearBlock& block = *work.block;
  ForTokenBlocks<Dot::kMostTokens>(work.tokens, [&]<int kTokens>(int64_t token) {
    const int32_t* rows[kTokens];
    Unroll<kTokens>(QIANYI_EACH(t) {
      const int64_t row = work.first_token + token + t;
      const void* x = nullptr;
      if constexpr (Dot::kInteger) {
        x = block.values + row * block.padded_cols + work.begin;
      } else {
        x = block.x + row * block.x_stride + work.begin;
      }
      rows[t] = static_cast<const int32_t*>(x);
    });
    const int64_t count = Dot::kInteger ? work.tiles * kTileCols / 4 : work.cols;
    TransposeRows<kTokens>(rows, count, PackedX<Dot>(work, token));
  });
}

// Where block.prefetch is set, weights are asked for 2 KiB ahead of their use; farther is
// slower. In any case a panel is read in the order of its bytes, group scales included:
// a second stream, or a gap, would break the processor's own guesses.
constexpr int64_t kAheadBytes = 2048;

// A tile of kBytes is about to be read. Whether to ask is a matter of the type, not of a
// branch: even one never taken cost a seventh of the memory's speed.
template <bool kAhead, int kBytes>
[[gnu::always_inline]] inline void PrefetchAhead(const std::byte* tile) {
  if constexpr (kAhead) {
    Unroll<kBytes / 64>(QIANYI_EACH(line) { __builtin_prefetch(tile + kAheadBytes + line * 64); });
  }
}

// The group scales of the slices [first, last), one row for each 32 columns.
inline void CopyGroupScales(const LinearBlock& block, const std::byte* panel, int64_t first,
                            int64_t last, LinearScratch* scratch) {
  const int shift = block.group == 32 ? 5 : block.group == 64 ? 6 : 7;
  const std::byte* scales = panel + kPanelRows * sizeof(float);
  const int64_t halves = block.padded_cols / 32;
  const int64_t begin = first * kHalves, end = last * kHalves < halves ? last * kHalves : halves;
  for (int64_t half = begin; half < end; ++half) {
    const std::byte* from = scales + (half * 32 >> shift) * kPanelRows;
    if (block.prefetch) __builtin_prefetch(from + kAheadBytes);
    __builtin_memcpy(scratch->group_scales[half - begin], from, kPanelRows);
  }
}

// A group of panels with a chunk of tokens.
template <typename V, typename Dot>
void MultiplyGroup(const LinearBlock& block, LinearScratch* scratch, int64_t first_panel,
                   int64_t panels, int64_t first_token, int64_t tokens) {
  const int64_t slices = (block.cols + kSliceCols - 1) / kSliceCols;
  const int64_t room = kPassElements / (Dot::kSliceElements * tokens);
  const int64_t pass_slices = room < kPassSlices ? room : kPassSlices;
  for (int64_t first = 0; first < slices; first += pass_slices) {
    const int64_t last = first + pass_slices < slices ? first + pass_slices : slices;
    for (int64_t s = first; s < last; ++s) {
      const SliceWork work = SliceAt(block, scratch, s, first_token, tokens, first);
      PackSlice<Dot>(work);
      Dot::Prepare(work);
    }
    for (int64_t p = 0; p < panels; ++p) {
      const std::byte* panel = block.panels + (first_panel + p) * block.panel_bytes;
      if (block.group > 0) CopyGroupScales(block, panel, first, last, scratch);
      for (int64_t s = first; s < last; ++s) {
        const SliceWork work = SliceAt(block, scratch, s, first_token, tokens, first);
        ForTokenBlocks<Dot::kMostTokens>(tokens, [&]<int kTokens>(int64_t token) {
          // Only the first tokens meet weights that are not in the caches.
          if (block.prefetch && token == 0) {
            Dot::template Multiply<kTokens, true>(work, panel, token, scratch->y[p] + token);
          } else {
            Dot::template Multiply<kTokens, false>(work, panel, token, scratch->y[p] + token);
          }
        });
      }
    }
  }
  for (int64_t p = 0; p < panels; ++p) {
    const int64_t panel = first_panel + p;
    const std::byte* header = block.panels + panel * block.panel_bytes;
    for (int64_t t = 0; t < tokens; ++t) {
      FinishRow<V, Dot::kInteger>(block, reinterpret_cast<const float*>(header), panel * kPanelRows,
                                  first_token + t, scratch->y[p][t]);
    }
  }
}

template <typename V, typename Dot>
void MultiplyPanels(const LinearBlock& block) {
  LinearScratch* scratch = reinterpret_cast<LinearScratch*>(block.scratch);
  const int64_t panels = (block.rows + kPanelRows - 1) / kPanelRows;
  for (int64_t p = 0; p < panels; p += kGroupPanels) {
    const int64_t group = panels - p < kGroupPanels ? panels - p : kGroupPanels;
    for (int64_t t = 0; t < block.tokens; t += kChunkTokens) {
      const int64_t chunk = block.tokens - t < kChunkTokens ? block.tokens - t : kChunkTokens;
      MultiplyGroup<V, Dot>(block, scratch, p, group, t, chunk);
    }
  }
}

// Float weights: sequential fma within a slice, slices added.
template <typename V, DType kDType>
struct FloatDot {
  static constexpr bool kInteger = false;
  static constexpr int64_t kSliceElements = kSliceCols;
  static constexpr int kMostTokens = V::kFloatTokens;

  static void Prepare(const SliceWork&) {}

  template <int kTokens, bool kAhead>
  static void Multiply(const SliceWork& work, const std::byte* panel, int64_t token,
                       float (*y)[kPanelRows]) {
    constexpr int64_t kColBytes = kPanelRows * (kDType == DType::kF32 ? 4 : 2);
    const float* x = reinterpret_cast<const float*>(PackedX<FloatDot>(work, token));
    const std::byte* w = panel + work.begin * kColBytes;
    V sum[kTokens];
    Unroll<kTokens>(QIANYI_EACH(t) { sum[t] = V::Zero(); });
    const auto add = [&](V weight) {
      Unroll<kTokens>(QIANYI_EACH(t) { sum[t] = V::Fma(V::Set(x[t]), weight, sum[t]); });
      x += kTokens;
    };
    if constexpr (kDType == DType::kF32) {
      for (int64_t k = 0; k < work.cols; ++k, w += kColBytes) {
        if (k % 8 == 0) PrefetchAhead<kAhead, 8 * kColBytes>(w);
        add(V::Load(reinterpret_cast<const float*>(w)));
      }
    } else {
      for (int64_t k = 0; k + 2 <= work.cols; k += 2, w += 2 * kColBytes) {
        if (k % 16 == 0) PrefetchAhead<kAhead, 16 * kColBytes>(w);
        V even, odd;
        LoadPairs(w, &even, &odd);
        add(even);
        add(odd);
      }
      if (work.cols % 2 != 0) {  // the partner of the last column is padding
        V even, odd;
        LoadPairs(w, &even, &odd);
        add(even);
      }
    }
    Unroll<kTokens>(QIANYI_EACH(t) {
      const V value = work.index == 0 ? sum[t] : V::Add(V::Load(y[t]), sum[t]);
      value.Store(y[t]);
    });
  }

  static void LoadPairs(const std::byte* p, V* even, V* odd) {
    if constexpr (kDType == DType::kF16) {
      V::LoadHalfPairs(p, even, odd);
    } else {
      V::LoadBf16Pairs(p, even, odd);
    }
  }
};

}  // namespace
}  // namespace qianyi::cpu
