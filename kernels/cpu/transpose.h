// Rows of 4-byte elements laid out element by element.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace qianyi::cpu {
namespace {

inline __m256i LoadEight(const int32_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}

// 8 rows × 8 elements.
inline void TransposeEight(const int32_t* const* rows, int64_t i, int32_t* out) {
  __m256i pair[8], quad[8];
  for (int r = 0; r < 8; r += 2) {
    const __m256i a = LoadEight(rows[r] + i), b = LoadEight(rows[r + 1] + i);
    pair[r] = _mm256_unpacklo_epi32(a, b);  // elements 0, 1 and 4, 5 of both rows
    pair[r + 1] = _mm256_unpackhi_epi32(a, b);
  }
  for (int half = 0; half < 8; half += 4) {
    for (int h = 0; h < 2; ++h) {  // four rows of elements 2h, 2h + 1 (and 4 more)
      quad[half + 2 * h] = _mm256_unpacklo_epi64(pair[half + h], pair[half + h + 2]);
      quad[half + 2 * h + 1] = _mm256_unpackhi_epi64(pair[half + h], pair[half + h + 2]);
    }
  }
  for (int e = 0; e < 4; ++e) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + e * 8),
                        _mm256_permute2x128_si256(quad[e], quad[4 + e], 0x20));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + (e + 4) * 8),
                        _mm256_permute2x128_si256(quad[e], quad[4 + e], 0x31));
  }
}

// 4 rows × 8 elements.
inline void TransposeFour(const int32_t* const* rows, int64_t i, int32_t* out) {
  const __m256i a = LoadEight(rows[0] + i), b = LoadEight(rows[1] + i);
  const __m256i c = LoadEight(rows[2] + i), d = LoadEight(rows[3] + i);
  const __m256i ab_low = _mm256_unpacklo_epi32(a, b), ab_high = _mm256_unpackhi_epi32(a, b);
  const __m256i cd_low = _mm256_unpacklo_epi32(c, d), cd_high = _mm256_unpackhi_epi32(c, d);
  const __m256i e04 = _mm256_unpacklo_epi64(ab_low, cd_low);
  const __m256i e15 = _mm256_unpackhi_epi64(ab_low, cd_low);
  const __m256i e26 = _mm256_unpacklo_epi64(ab_high, cd_high);
  const __m256i e37 = _mm256_unpackhi_epi64(ab_high, cd_high);
  __m256i* to = reinterpret_cast<__m256i*>(out);
  _mm256_storeu_si256(to, _mm256_permute2x128_si256(e04, e15, 0x20));
  _mm256_storeu_si256(to + 1, _mm256_permute2x128_si256(e26, e37, 0x20));
  _mm256_storeu_si256(to + 2, _mm256_permute2x128_si256(e04, e15, 0x31));
  _mm256_storeu_si256(to + 3, _mm256_permute2x128_si256(e26, e37, 0x31));
}

// out[e * kRows + r] = rows[r][e] for e < count.
template <int kRows>
void TransposeRows(const int32_t* const* rows, int64_t count, int32_t* out) {
  int64_t e = 0;
  if constexpr (kRows == 8) {
    for (; e + 8 <= count; e += 8) TransposeEight(rows, e, out + e * 8);
  }
  if constexpr (kRows == 4) {
    for (; e + 8 <= count; e += 8) TransposeFour(rows, e, out + e * 4);
  }
  for (; e < count; ++e) {
    for (int r = 0; r < kRows; ++r) __builtin_memcpy(out + e * kRows + r, rows[r] + e, 4);
  }
}

}  // namespace
}  // namespace qianyi::cpu
