// Linear layers with VNNI: unsigned bytes of weights times signed bytes of activations.
// Weights are biased to be unsigned (int8 by 128, int4 by 8), and the accumulators start
// from minus the bias times the sum of the activations.
#include "kernels/cpu/linear_templates.h"
#include "kernels/cpu/vec_avx512.h"

namespace qianyi::cpu {
namespace {

// The sums of each 32 activations of the slice, zeros after the last.
__m512i LoadSums(const SliceWork& work, int64_t token) {
  const LinearBlock& block = *work.block;
  const int32_t* sums =
      block.sums + (work.first_token + token) * (block.padded_cols / 32) + work.index * kHalves;
  return _mm512_maskz_loadu_epi32(static_cast<__mmask16>((1u << work.tiles * 2) - 1u), sums);
}

// y = float(sum) * scale + y for one token and 16 rows.
void AddSlice(const SliceWork& work, int64_t token, __m512i sum, float* y) {
  const LinearBlock& block = *work.block;
  const float scale = block.scales[(work.first_token + token) * block.slices + work.index];
  const __m512 before = work.index == 0 ? _mm512_setzero_ps() : _mm512_load_ps(y);
  _mm512_store_ps(y, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(scale), before));
}

// sum + the products of four unsigned weights in each lane with the four activations at x.
// As an instruction of its own: compilers split it, and then run out of registers.
[[gnu::always_inline]] inline __m512i AddProducts(__m512i sum, __m512i weights, const int32_t* x) {
  asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(weights), "m"(*x));
  return sum;
}

struct Int8Dot {
  static constexpr bool kInteger = true;
  static constexpr int64_t kSliceElements = kSliceCols / 4;
  static constexpr int kMostTokens = 8;

  static void Prepare(const SliceWork& work) {
    for (int64_t t = 0; t < work.tokens; ++t) {
      const int32_t sum = _mm512_reduce_add_epi32(LoadSums(work, t));
      work.scratch->start[work.first_row + t][0] = -128 * sum;
    }
  }

  template <int kTokens, bool kAhead>
  static void Multiply(const SliceWork& work, const std::byte* panel, int64_t token,
                       float (*y)[kPanelRows]) {
    // A token's chain of additions is cut in pieces: an addition takes five cycles, and two of them
    // begin in each.
    constexpr int kChains = kTokens >= 4 ? 2 : 4 / kTokens;
    const LinearBlock& block = *work.block;
    const std::byte* w = panel + block.tile_offset + work.begin * kPanelRows;
    const int32_t* x = PackedX<Int8Dot>(work, token);
    __m512i sum[kChains * kTokens];
    Unroll<kChains * kTokens>(QIANYI_EACH(i) { sum[i] = _mm512_setzero_si512(); });
    const __m512i bias = _mm512_set1_epi8(-128);
    for (int64_t tile = 0; tile < work.tiles; ++tile) {
      for (int quad = 0; quad < 16; quad += kChains, w += 64 * kChains, x += kTokens * kChains) {
        PrefetchAhead<kAhead, 64 * kChains>(w);
        Unroll<kChains>(QIANYI_EACH(c) {
          const __m512i weight = _mm512_xor_si512(_mm512_loadu_si512(w + c * 64), bias);
          Unroll<kTokens>(QIANYI_EACH(t) {
            constexpr int i = c * kTokens + t;
            sum[i] = AddProducts(sum[i], weight, x + i);
          });
        });
      }
    }
    Unroll<kTokens>(QIANYI_EACH(t) {
      __m512i total = _mm512_set1_epi32(work.scratch->start[work.first_row + token + t][0]);
      Unroll<kChains>(QIANYI_EACH(c) { total = _mm512_add_epi32(total, sum[c * kTokens + t]); });
      AddSlice(work, token + t, total, y[t]);
    });
  }
};

// A tile of int4: eight quads of 64 bytes, low nibbles for columns 0..31, high for 32..63.
template <int kTokens>
[[gnu::always_inline]] inline void Int4Tile(const std::byte* w, const int32_t* x, __m512i* low,
                                            __m512i* high) {
  const __m512i mask = _mm512_set1_epi8(15);
  for (int quad = 0; quad < 8; ++quad, w += 64, x += kTokens) {
    const __m512i both = _mm512_loadu_si512(w);
    const __m512i low_weight = _mm512_and_si512(both, mask);
    const __m512i high_weight = _mm512_and_si512(_mm512_srli_epi16(both, 4), mask);
    Unroll<kTokens>(QIANYI_EACH(t) { low[t] = AddProducts(low[t], low_weight, x + t); });
    Unroll<kTokens>(
        QIANYI_EACH(t) { high[t] = AddProducts(high[t], high_weight, x + 8 * kTokens + t); });
  }
}

struct Int4RowDot {
  static constexpr bool kInteger = true;
  static constexpr int64_t kSliceElements = kSliceCols / 4;
  static constexpr int kMostTokens = 8;

  static void Prepare(const SliceWork& work) {
    for (int64_t t = 0; t < work.tokens; ++t) {
      const int32_t sum = _mm512_reduce_add_epi32(LoadSums(work, t));
      work.scratch->start[work.first_row + t][0] = -8 * sum;
    }
  }

  template <int kTokens, bool kAhead>
  static void Multiply(const SliceWork& work, const std::byte* panel, int64_t token,
                       float (*y)[kPanelRows]) {
    const LinearBlock& block = *work.block;
    const std::byte* w = panel + block.tile_offset + work.begin * 8;
    const int32_t* x = PackedX<Int4RowDot>(work, token);
    __m512i low[kTokens], high[kTokens];
    Unroll<kTokens>(QIANYI_EACH(t) {
      low[t] = _mm512_set1_epi32(work.scratch->start[work.first_row + token + t][0]);
      high[t] = _mm512_setzero_si512();
    });
    for (int64_t tile = 0; tile < work.tiles; ++tile) {
      PrefetchAhead<kAhead, 512>(w + tile * 512);
      Int4Tile<kTokens>(w + tile * 512, x + tile * 16 * kTokens, low, high);
    }
    Unroll<kTokens>(
        QIANYI_EACH(t) { AddSlice(work, token + t, _mm512_add_epi32(low[t], high[t]), y[t]); });
  }
};

struct Int4GroupDot {
  static constexpr bool kInteger = true;
  static constexpr int64_t kSliceElements = kSliceCols / 4;
  static constexpr int kMostTokens = 8;

  // -8 Σx of each 32 columns. With them a partial sum fits 16 bits: 32 · 8 · 127 = 32512.
  static void Prepare(const SliceWork& work) {
    for (int64_t t = 0; t < work.tokens; ++t) {
      const __m512i eight = _mm512_slli_epi32(LoadSums(work, t), 3);
      _mm512_storeu_si512(work.scratch->start[work.first_row + t],
                          _mm512_sub_epi32(_mm512_setzero_si512(), eight));
    }
  }

  // The scales of 16 rows for two halves of a tile: low 16 bits and high 16 bits.
  static __m512i LoadScales(const int8_t (*scales)[kPanelRows]) {
    const __m128i* halves = reinterpret_cast<const __m128i*>(scales);
    const __m512i low = _mm512_cvtepi8_epi32(_mm_loadu_si128(halves));
    const __m512i high = _mm512_cvtepi8_epi32(_mm_loadu_si128(halves + 1));
    return _mm512_mask_blend_epi16(0xaaaaaaaau, low, _mm512_slli_epi32(high, 16));
  }

  template <int kTokens, bool kAhead>
  static void Multiply(const SliceWork& work, const std::byte* panel, int64_t token,
                       float (*y)[kPanelRows]) {
    const LinearBlock& block = *work.block;
    const std::byte* w = panel + block.tile_offset + work.begin * 8;
    const int32_t* x = PackedX<Int4GroupDot>(work, token);
    const LinearScratch& scratch = *work.scratch;
    const int32_t(*start)[kHalves] = scratch.start + work.first_row + token;
    __m512i sum[kTokens];
    Unroll<kTokens>(QIANYI_EACH(t) { sum[t] = _mm512_setzero_si512(); });
    for (int64_t tile = 0; tile < work.tiles; ++tile) {
      PrefetchAhead<kAhead, 512>(w + tile * 512);
      __m512i low[kTokens], high[kTokens];
      Unroll<kTokens>(QIANYI_EACH(t) {
        low[t] = _mm512_set1_epi32(start[t][tile * 2]);
        high[t] = _mm512_set1_epi32(start[t][tile * 2 + 1]);
      });
      Int4Tile<kTokens>(w + tile * 512, x + tile * 16 * kTokens, low, high);
      const __m512i scale = LoadScales(scratch.group_scales + work.pass_index * kHalves + tile * 2);
      Unroll<kTokens>(QIANYI_EACH(t) {
        const __m512i both =
            _mm512_mask_blend_epi16(0xaaaaaaaau, low[t], _mm512_slli_epi32(high[t], 16));
        sum[t] = _mm512_dpwssd_epi32(sum[t], both, scale);
      });
    }
    Unroll<kTokens>(QIANYI_EACH(t) { AddSlice(work, token + t, sum[t], y[t]); });
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
