// Linear layers with AVX2, which multiplies unsigned by signed bytes into 16 bits with
// saturation. Nothing here can saturate: activations are within ±127.
#include "kernels/cpu/linear_templates.h"
#include "kernels/cpu/vec_avx2.h"

namespace qianyi::cpu {
namespace {

__m256i LoadBytes(const std::byte* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}

// y = float(sum) * scale + y for one token and 16 rows.
void AddSlice(const SliceWork& work, int64_t token, const __m256i* sum, float* y) {
  const LinearBlock& block = *work.block;
  const Vec scale = Vec::Set(block.scales[(work.first_token + token) * block.slices + work.index]);
  const Vec value = {_mm256_cvtepi32_ps(sum[0]), _mm256_cvtepi32_ps(sum[1])};
  const Vec before = work.index == 0 ? Vec::Zero() : Vec::Load(y);
  Vec::Fma(value, scale, before).Store(y);
}

// Keeps the compiler from regrouping a chain of sums, which would cost it its registers, and from
// copying each sum back to where it was.
[[gnu::always_inline]] inline void AddWords(__m256i* sum, __m256i words) {
  *sum = _mm256_add_epi16(*sum, words);
  asm("" : "+x"(*sum));
}
[[gnu::always_inline]] inline void AddDoubles(__m256i* sum, __m256i doubles) {
  *sum = _mm256_add_epi32(*sum, doubles);
  asm("" : "+x"(*sum));
}

struct Int8Dot {
  static constexpr bool kInteger = true;
  static constexpr int64_t kSliceElements = kSliceCols / 4;
  static constexpr int kMostTokens = 4;

  static void Prepare(const SliceWork&) {}

  // |w| as unsigned bytes times x with the sign of w: two products are at most
  // 2 · 127 · 127 in 16 bits.
  template <int kTokens, bool kAhead>
  static void Multiply(const SliceWork& work, const std::byte* panel, int64_t token,
                       float (*y)[kPanelRows]) {
    const LinearBlock& block = *work.block;
    const std::byte* w = panel + block.tile_offset + work.begin * kPanelRows;
    const int32_t* x = PackedX<Int8Dot>(work, token);
    __m256i sum[kTokens][2];
    Unroll<kTokens>(QIANYI_EACH(t) { sum[t][0] = sum[t][1] = _mm256_setzero_si256(); });
    const __m256i ones = _mm256_set1_epi16(1);
    for (int64_t tile = 0; tile < work.tiles; ++tile) {
      PrefetchAhead<kAhead, 1024>(w);
      for (int quad = 0; quad < 16; ++quad, w += 64, x += kTokens) {
        Unroll<2>(QIANYI_EACH(half) {
          const __m256i weight = LoadBytes(w + half * 32);
          const __m256i magnitude = _mm256_abs_epi8(weight);
          Unroll<kTokens>(QIANYI_EACH(t) {
            const __m256i signed_x = _mm256_sign_epi8(_mm256_set1_epi32(x[t]), weight);
            const __m256i pairs = _mm256_maddubs_epi16(magnitude, signed_x);
            AddDoubles(&sum[t][half], _mm256_madd_epi16(pairs, ones));
          });
        });
      }
    }
    Unroll<kTokens>(QIANYI_EACH(t) { AddSlice(work, token + t, sum[t], y[t]); });
  }
};

// With and without group scales: without them they are 1.
template <bool kGrouped>
struct Int4Dot {
  static constexpr bool kInteger = true;
  static constexpr int64_t kSliceElements = kSliceCols / 4;
  static constexpr int kMostTokens = 4;

  // -4 Σx of each 32 columns, twice in a lane.
  static void Prepare(const SliceWork& work) {
    const LinearBlock& block = *work.block;
    for (int64_t t = 0; t < work.tokens; ++t) {
      const int32_t* sums =
          block.sums + (work.first_token + t) * (block.padded_cols / 32) + work.index * kHalves;
      for (int64_t half = 0; half < work.tiles * 2; ++half) {
        const uint32_t word = static_cast<uint16_t>(-4 * sums[half]);
        work.scratch->start[work.first_row + t][half] = static_cast<int32_t>(word << 16 | word);
      }
    }
  }

  // 32 columns: a 16-bit lane collects u·x of two columns of each of 8 quads, from
  // -4 Σx on, so that its magnitude is at most 16 · 15 · 127 = 30480, and the two lanes of
  // a row together hold Σ (u - 8) x.
  template <int kTokens, bool kHigh>
  [[gnu::always_inline]] static void AddHalf(const std::byte* w, const int32_t* x,
                                             const int32_t (*start)[kHalves], int64_t half,
                                             const __m256i* scale, __m256i (*sum)[2]) {
    const __m256i mask = _mm256_set1_epi8(15);
    __m256i lanes[kTokens][2];
    Unroll<kTokens>(
        QIANYI_EACH(t) { lanes[t][0] = lanes[t][1] = _mm256_set1_epi32(start[t][half]); });
    for (int quad = 0; quad < 8; ++quad, x += kTokens) {
      __m256i first = LoadBytes(w + quad * 64), second = LoadBytes(w + quad * 64 + 32);
      if constexpr (kHigh) {
        first = _mm256_srli_epi16(first, 4);
        second = _mm256_srli_epi16(second, 4);
      }
      first = _mm256_and_si256(first, mask);
      second = _mm256_and_si256(second, mask);
      Unroll<kTokens>(QIANYI_EACH(t) {
        const __m256i x4 = _mm256_set1_epi32(x[t]);
        AddWords(&lanes[t][0], _mm256_maddubs_epi16(first, x4));
        AddWords(&lanes[t][1], _mm256_maddubs_epi16(second, x4));
      });
    }
    Unroll<kTokens>(QIANYI_EACH(t) {
      Unroll<2>(QIANYI_EACH(i) {
        sum[t][i] = _mm256_add_epi32(sum[t][i], _mm256_madd_epi16(lanes[t][i], scale[i]));
      });
    });
  }

  // The scale of rows 0..7 and of 8..15, twice in every 32-bit lane.
  static void LoadScales(const int8_t* p, __m256i* scale) {
    if constexpr (!kGrouped) {
      scale[0] = scale[1] = _mm256_set1_epi16(1);
      return;
    }
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    scale[0] = _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(bytes, bytes));
    scale[1] = _mm256_cvtepi8_epi16(_mm_unpackhi_epi8(bytes, bytes));
  }

  template <int kTokens, bool kAhead>
  static void Multiply(const SliceWork& work, const std::byte* panel, int64_t token,
                       float (*y)[kPanelRows]) {
    const LinearBlock& block = *work.block;
    const std::byte* w = panel + block.tile_offset + work.begin * 8;
    const int8_t(*scales)[kPanelRows] = work.scratch->group_scales + work.pass_index * kHalves;
    const int32_t* x = PackedX<Int4Dot>(work, token);
    const int32_t(*start)[kHalves] = work.scratch->start + work.first_row + token;
    __m256i sum[kTokens][2];
    Unroll<kTokens>(QIANYI_EACH(t) { sum[t][0] = sum[t][1] = _mm256_setzero_si256(); });
    for (int64_t tile = 0; tile < work.tiles; ++tile, w += 512, x += 16 * kTokens) {
      PrefetchAhead<kAhead, 512>(w);
      __m256i scale[2];
      LoadScales(scales[tile * 2], scale);
      AddHalf<kTokens, false>(w, x, start, tile * 2, scale, sum);
      LoadScales(scales[tile * 2 + 1], scale);
      AddHalf<kTokens, true>(w, x + 8 * kTokens, start, tile * 2 + 1, scale, sum);
    }
    Unroll<kTokens>(QIANYI_EACH(t) { AddSlice(work, token + t, sum[t], y[t]); });
  }
};

}  // namespace

void LinearAvx2(const LinearBlock& block) {
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
      if (block.group == 0) return MultiplyPanels<Vec, Int4Dot<false>>(block);
      return MultiplyPanels<Vec, Int4Dot<true>>(block);
  }
}

}  // namespace qianyi::cpu
