// Linear layers with VNNI: unsigned bytes of weights times signed bytes of activations.
// Weights are biased to be unsigned (int8 by 128, int4 by 8), and the accumulators start
// from minus the bias times the sum of the activations.
#include "kernels/cpu/vec_avx512.h"
// After the vector type, which the templates are instantiated for.
#include "kernels/cpu/linear_templates.h"

namespace qianyi::cpu {
namespace {

constexpr int kHalves = kSliceCols / 32;  // sums of 32 activations in a slice

const int32_t* SumsOf(const SliceWork& work, int64_t token) {
  const int64_t stride = work.block->padded_cols / 32;
  return work.block->sums + (work.first_token + token) * stride + work.index * kHalves;
}

const int8_t* ValuesOf(const SliceWork& work, int64_t token) {
  return work.block->values + (work.first_token + token) * work.block->padded_cols + work.begin;
}

// The sums of each 32 activations of the slice, zeros after the last.
__m512i LoadSums(const SliceWork& work, int64_t token) {
  return _mm512_maskz_loadu_epi32(static_cast<__mmask16>((1u << work.tiles * 2) - 1u),
                                  SumsOf(work, token));
}

// y = float(sum) * scale + y for one token and 16 rows.
void AddSlice(const SliceWork& work, int64_t token, __m512i sum, float* y) {
  const LinearBlock& block = *work.block;
  const float scale = block.scales[(work.first_token + token) * block.slices + work.index];
  const __m512 before = work.index == 0 ? _mm512_setzero_ps() : _mm512_load_ps(y);
  _mm512_store_ps(y, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(scale), before));
}

struct Int8Dot {
  static constexpr bool kScaled = true;
  static constexpr int kMostTokens = 8, kMostPanels = 1;

  int32_t start[kChunkTokens];

  void Prepare(const SliceWork& work) {
    for (int64_t t = 0; t < work.tokens; ++t) {
      start[t] = -128 * _mm512_reduce_add_epi32(LoadSums(work, t));
    }
  }

  template <int kTokens, int kPanels>
  void Multiply(const SliceWork& work, int64_t panel, int64_t token, float* y) {
    // A token's chain of additions is cut in pieces where tokens are few.
    constexpr int kChains = kTokens >= 4 ? 1 : 4 / kTokens;
    const LinearBlock& block = *work.block;
    const std::byte* w =
        block.panels + panel * block.panel_bytes + block.tile_offset + work.begin * kPanelRows;
    const int8_t* x[kTokens];
    __m512i sum[kTokens][kChains];
    for (int t = 0; t < kTokens; ++t) {
      x[t] = ValuesOf(work, token + t);
      sum[t][0] = _mm512_set1_epi32(start[token + t]);
      for (int c = 1; c < kChains; ++c) sum[t][c] = _mm512_setzero_si512();
    }
    const __m512i bias = _mm512_set1_epi8(-128);
    for (int64_t quad = 0; quad < work.tiles * 16; quad += 4) {
      for (int i = 0; i < 4; ++i) {
        const std::byte* here = w + (quad + i) * 64;
        __builtin_prefetch(here + kPrefetchBytes);
        const __m512i weight = _mm512_xor_si512(_mm512_loadu_si512(here), bias);
        for (int t = 0; t < kTokens; ++t) {
          __m512i& chain = sum[t][i % kChains];
          chain =
              _mm512_dpbusd_epi32(chain, weight, _mm512_set1_epi32(Quad(x[t] + (quad + i) * 4)));
        }
      }
    }
    for (int t = 0; t < kTokens; ++t) {
      for (int c = 1; c < kChains; ++c) sum[t][0] = _mm512_add_epi32(sum[t][0], sum[t][c]);
      AddSlice(work, token + t, sum[t][0], y + t * kPanelRows);
    }
  }
};

// A tile of int4: eight quads of 64 bytes, low nibbles for columns 0..31, high for 32..63.
template <int kTokens>
void Int4Tile(const std::byte* w, const int8_t* const* x, int64_t col, __m512i* low,
              __m512i* high) {
  const __m512i mask = _mm512_set1_epi8(15);
  for (int quad = 0; quad < 8; ++quad) {
    __builtin_prefetch(w + quad * 64 + kPrefetchBytes);
    const __m512i both = _mm512_loadu_si512(w + quad * 64);
    const __m512i low_weight = _mm512_and_si512(both, mask);
    const __m512i high_weight = _mm512_and_si512(_mm512_srli_epi16(both, 4), mask);
    for (int t = 0; t < kTokens; ++t) {
      const int8_t* at = x[t] + col + quad * 4;
      low[t] = _mm512_dpbusd_epi32(low[t], low_weight, _mm512_set1_epi32(Quad(at)));
      high[t] = _mm512_dpbusd_epi32(high[t], high_weight, _mm512_set1_epi32(Quad(at + 32)));
    }
  }
}

struct Int4RowDot {
  static constexpr bool kScaled = true;
  static constexpr int kMostTokens = 8, kMostPanels = 1;

  int32_t start[kChunkTokens];

  void Prepare(const SliceWork& work) {
    for (int64_t t = 0; t < work.tokens; ++t) {
      start[t] = -8 * _mm512_reduce_add_epi32(LoadSums(work, t));
    }
  }

  template <int kTokens, int kPanels>
  void Multiply(const SliceWork& work, int64_t panel, int64_t token, float* y) {
    const LinearBlock& block = *work.block;
    const std::byte* w =
        block.panels + panel * block.panel_bytes + block.tile_offset + work.begin * 8;
    const int8_t* x[kTokens];
    __m512i low[kTokens], high[kTokens];
    for (int t = 0; t < kTokens; ++t) {
      x[t] = ValuesOf(work, token + t);
      low[t] = _mm512_set1_epi32(start[token + t]);
      high[t] = _mm512_setzero_si512();
    }
    for (int64_t tile = 0; tile < work.tiles; ++tile) {
      Int4Tile<kTokens>(w + tile * 512, x, tile * kTileCols, low, high);
    }
    for (int t = 0; t < kTokens; ++t) {
      AddSlice(work, token + t, _mm512_add_epi32(low[t], high[t]), y + t * kPanelRows);
    }
  }
};

struct Int4GroupDot {
  static constexpr bool kScaled = true;
  static constexpr int kMostTokens = 8, kMostPanels = 1;

  // -8 Σx of each 32 columns. With them a partial sum fits 16 bits: 32 · 8 · 127 = 32512.
  alignas(64) int32_t start[kChunkTokens][kHalves];

  void Prepare(const SliceWork& work) {
    for (int64_t t = 0; t < work.tokens; ++t) {
      const __m512i eight = _mm512_slli_epi32(LoadSums(work, t), 3);
      _mm512_store_si512(start[t], _mm512_sub_epi32(_mm512_setzero_si512(), eight));
    }
  }

  template <int kTokens, int kPanels>
  void Multiply(const SliceWork& work, int64_t panel, int64_t token, float* y) {
    const LinearBlock& block = *work.block;
    const std::byte* base = block.panels + panel * block.panel_bytes;
    const std::byte* w = base + block.tile_offset + work.begin * 8;
    const std::byte* scales = base + kPanelRows * sizeof(float);
    const int shift = block.group == 32 ? 5 : block.group == 64 ? 6 : 7;
    const int8_t* x[kTokens];
    __m512i sum[kTokens];
    for (int t = 0; t < kTokens; ++t) {
      x[t] = ValuesOf(work, token + t);
      sum[t] = _mm512_setzero_si512();
    }
    // The low 16 bits of each lane are the scale; the high ones meet the sign extension
    // of the partial sum and must be zero.
    const auto scale_at = [&](int64_t col) {
      const __m128i bytes = _mm_loadu_si128(
          reinterpret_cast<const __m128i*>(scales + ((work.begin + col) >> shift) * kPanelRows));
      return _mm512_and_si512(_mm512_cvtepi8_epi32(bytes), _mm512_set1_epi32(0xffff));
    };
    for (int64_t tile = 0; tile < work.tiles; ++tile) {
      __m512i low[kTokens], high[kTokens];
      for (int t = 0; t < kTokens; ++t) {
        low[t] = _mm512_set1_epi32(start[token + t][tile * 2]);
        high[t] = _mm512_set1_epi32(start[token + t][tile * 2 + 1]);
      }
      Int4Tile<kTokens>(w + tile * 512, x, tile * kTileCols, low, high);
      const __m512i low_scale = scale_at(tile * kTileCols);
      const __m512i high_scale = scale_at(tile * kTileCols + 32);
      for (int t = 0; t < kTokens; ++t) {
        sum[t] = _mm512_dpwssd_epi32(sum[t], low[t], low_scale);
        sum[t] = _mm512_dpwssd_epi32(sum[t], high[t], high_scale);
      }
    }
    for (int t = 0; t < kTokens; ++t) AddSlice(work, token + t, sum[t], y + t * kPanelRows);
  }
};

}  // namespace

void LinearAvx512(const LinearBlock& block) {
  switch (block.dtype) {
    case DType::kF32:
      return MultiplyPanels<Vec, FloatDot<Vec, DType::kF32>>(block);
    case DType::kF16:
      return MultiplyPanels<Vec, FloatDot<Vec, DType::kF16>>(block);
    case DType::kBF16:
      return MultiplyPanels<Vec, FloatDot<Vec, DType::kBF16>>(block);
    case DType::kI8:
      return MultiplyPanels<Vec, Int8Dot>(block);
    case DType::kI4:
      if (block.group == 0) return MultiplyPanels<Vec, Int4RowDot>(block);
      return MultiplyPanels<Vec, Int4GroupDot>(block);
  }
}

}  // namespace qianyi::cpu
