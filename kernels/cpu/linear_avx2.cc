// Linear layers with AVX2, which multiplies unsigned by signed bytes into 16 bits with
// saturation. Nothing here can saturate: activations are within ±127.
#include "kernels/cpu/vec_avx2.h"
// After the vector type, which the templates are instantiated for.
#include "kernels/cpu/linear_templates.h"

namespace qianyi::cpu {
namespace {

const int8_t* ValuesOf(const SliceWork& work, int64_t token) {
  return work.block->values + (work.first_token + token) * work.block->padded_cols + work.begin;
}

const int32_t* SumsOf(const SliceWork& work, int64_t token) {
  const int64_t stride = work.block->padded_cols / 32;
  return work.block->sums + (work.first_token + token) * stride + work.begin / 32;
}

__m256i LoadBytes(const std::byte* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}

// y = float(sum) * scale + y for one token and 16 rows.
void AddSlice(const SliceWork& work, int64_t token, __m256i low, __m256i high, float* y) {
  const LinearBlock& block = *work.block;
  const Vec scale = Vec::Set(block.scales[(work.first_token + token) * block.slices + work.index]);
  const Vec sum = {_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high)};
  const Vec before = work.index == 0 ? Vec::Zero() : Vec::Load(y);
  Vec::Fma(sum, scale, before).Store(y);
}

struct Int8Dot {
  static constexpr bool kScaled = true;
  static constexpr int kMostTokens = 4, kMostPanels = 1;

  void Prepare(const SliceWork&) {}

  // |w| as unsigned bytes times x with the sign of w: two products are at most
  // 2 · 127 · 127 in 16 bits.
  template <int kTokens, int kPanels>
  void Multiply(const SliceWork& work, int64_t panel, int64_t token, float* y) {
    const LinearBlock& block = *work.block;
    const std::byte* w =
        block.panels + panel * block.panel_bytes + block.tile_offset + work.begin * kPanelRows;
    const int8_t* x[kTokens];
    __m256i sum[kTokens][2];
    for (int t = 0; t < kTokens; ++t) {
      x[t] = ValuesOf(work, token + t);
      sum[t][0] = sum[t][1] = _mm256_setzero_si256();
    }
    const __m256i ones = _mm256_set1_epi16(1);
    for (int64_t quad = 0; quad < work.tiles * 16; ++quad) {
      const std::byte* here = w + quad * 64;
      __builtin_prefetch(here + kPrefetchBytes);
      for (int half = 0; half < 2; ++half) {
        const __m256i weight = LoadBytes(here + half * 32);
        const __m256i magnitude = _mm256_abs_epi8(weight);
        for (int t = 0; t < kTokens; ++t) {
          const __m256i signed_x =
              _mm256_sign_epi8(_mm256_set1_epi32(Quad(x[t] + quad * 4)), weight);
          const __m256i pairs = _mm256_maddubs_epi16(magnitude, signed_x);
          sum[t][half] = _mm256_add_epi32(sum[t][half], _mm256_madd_epi16(pairs, ones));
        }
      }
    }
    for (int t = 0; t < kTokens; ++t) {
      AddSlice(work, token + t, sum[t][0], sum[t][1], y + t * kPanelRows);
    }
  }
};

// With and without group scales: without them they are 1.
template <bool kGrouped>
struct Int4Dot {
  static constexpr bool kScaled = true;
  static constexpr int kMostTokens = 4, kMostPanels = 1;

  void Prepare(const SliceWork&) {}

  // 32 columns: a 16-bit lane collects u·x of two columns of each of 8 quads, from
  // -4 Σx on, so that its magnitude is at most 16 · 15 · 127 = 30480, and the two lanes of
  // a row together hold Σ (u - 8) x.
  template <int kTokens, bool kHigh>
  static void AddHalf(const std::byte* w, const int8_t* const* x, const int32_t* const* sums,
                      int64_t half, const __m256i* scale, __m256i (*sum)[2]) {
    const __m256i mask = _mm256_set1_epi8(15);
    __m256i lanes[kTokens][2];
    for (int t = 0; t < kTokens; ++t) {
      lanes[t][0] = lanes[t][1] = _mm256_set1_epi16(static_cast<int16_t>(-4 * sums[t][half]));
    }
    for (int quad = 0; quad < 8; ++quad) {
      if constexpr (!kHigh) __builtin_prefetch(w + quad * 64 + kPrefetchBytes);
      __m256i first = LoadBytes(w + quad * 64), second = LoadBytes(w + quad * 64 + 32);
      if constexpr (kHigh) {
        first = _mm256_srli_epi16(first, 4);
        second = _mm256_srli_epi16(second, 4);
      }
      first = _mm256_and_si256(first, mask);
      second = _mm256_and_si256(second, mask);
      for (int t = 0; t < kTokens; ++t) {
        const __m256i x4 = _mm256_set1_epi32(Quad(x[t] + half * 32 + quad * 4));
        lanes[t][0] = _mm256_add_epi16(lanes[t][0], _mm256_maddubs_epi16(first, x4));
        lanes[t][1] = _mm256_add_epi16(lanes[t][1], _mm256_maddubs_epi16(second, x4));
      }
    }
    for (int t = 0; t < kTokens; ++t) {
      for (int i = 0; i < 2; ++i) {
        sum[t][i] = _mm256_add_epi32(sum[t][i], _mm256_madd_epi16(lanes[t][i], scale[i]));
      }
    }
  }

  // The scale of rows 0..7 and of 8..15, twice in every 32-bit lane.
  static void LoadScales(const std::byte* p, __m256i* scale) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    const __m128i twice[2] = {_mm_unpacklo_epi8(bytes, bytes), _mm_unpackhi_epi8(bytes, bytes)};
    scale[0] = _mm256_cvtepi8_epi16(twice[0]);
    scale[1] = _mm256_cvtepi8_epi16(twice[1]);
  }

  template <int kTokens, int kPanels>
  void Multiply(const SliceWork& work, int64_t panel, int64_t token, float* y) {
    const LinearBlock& block = *work.block;
    const std::byte* base = block.panels + panel * block.panel_bytes;
    const std::byte* w = base + block.tile_offset + work.begin * 8;
    const std::byte* scales = base + kPanelRows * sizeof(float);
    const int shift = block.group == 32 ? 5 : block.group == 64 ? 6 : 7;
    const int8_t* x[kTokens];
    const int32_t* sums[kTokens];
    __m256i sum[kTokens][2];
    for (int t = 0; t < kTokens; ++t) {
      x[t] = ValuesOf(work, token + t);
      sums[t] = SumsOf(work, token + t);
      sum[t][0] = sum[t][1] = _mm256_setzero_si256();
    }
    __m256i scale[2] = {_mm256_set1_epi16(1), _mm256_set1_epi16(1)};
    for (int64_t tile = 0; tile < work.tiles; ++tile) {
      const int64_t col = work.begin + tile * kTileCols;
      if constexpr (kGrouped) LoadScales(scales + (col >> shift) * kPanelRows, scale);
      AddHalf<kTokens, false>(w + tile * 512, x, sums, tile * 2, scale, sum);
      if constexpr (kGrouped) LoadScales(scales + ((col + 32) >> shift) * kPanelRows, scale);
      AddHalf<kTokens, true>(w + tile * 512, x, sums, tile * 2 + 1, scale, sum);
    }
    for (int t = 0; t < kTokens; ++t) {
      AddSlice(work, token + t, sum[t][0], sum[t][1], y + t * kPanelRows);
    }
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
