// Sixteen floats in one AVX-512 register; see vec_scalar.h for what each operation means.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace qianyi::cpu {
namespace {

struct Vec {
  static constexpr int kQueryRows = 4;
  static constexpr int kValueRows = 4, kValueVecs = 4;
  static constexpr int kFloatTokens = 8;  // of a linear layer with float weights

  __m512 v;

  static __mmask16 First(int64_t n) { return static_cast<__mmask16>((1u << n) - 1u); }
  static __m512 AndBits(__m512 x, uint32_t mask) { return _mm512_and_ps(x, Splat(mask)); }
  static __m512 Splat(uint32_t bits) {
    return _mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(bits)));
  }

  static Vec Set(float value) { return {_mm512_set1_ps(value)}; }
  static Vec Zero() { return {_mm512_setzero_ps()}; }
  static Vec Load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static Vec LoadFirst(const float* p, int64_t n) { return {_mm512_maskz_loadu_ps(First(n), p)}; }
  static Vec LoadInt32(const int32_t* p) { return {_mm512_cvtepi32_ps(_mm512_loadu_si512(p))}; }
  static Vec LoadHalf(const uint16_t* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
  }
  static Vec LoadHalfFirst(const uint16_t* p, int64_t n) {
    return {_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(First(n), p))};
  }
  static Vec WidenBFloat(__m256i bits) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
  }
  static Vec LoadBFloat(const uint16_t* p) {
    return WidenBFloat(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static Vec LoadBFloatFirst(const uint16_t* p, int64_t n) {
    return WidenBFloat(_mm256_maskz_loadu_epi16(First(n), p));
  }
  static Vec LoadInt8(const int8_t* p) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))};
  }
  static Vec LoadInt8First(const int8_t* p, int64_t n) {
    return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(First(n), p)))};
  }
  // 32 values in pairs: [0], [2], … and [1], [3], ….
  static void LoadHalfPairs(const std::byte* p, Vec* even, Vec* odd) {
    const __m512i pairs = _mm512_loadu_si512(p);
    even->v = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(pairs));
    odd->v = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(pairs, 16)));
  }
  static void LoadBf16Pairs(const std::byte* p, Vec* even, Vec* odd) {
    const __m512i pairs = _mm512_loadu_si512(p);
    even->v = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
    odd->v = AndBits(_mm512_castsi512_ps(pairs), 0xffff0000u);
  }
  void Store(float* p) const { _mm512_storeu_ps(p, v); }
  void StoreFirst(float* p, int64_t n) const { _mm512_mask_storeu_ps(p, First(n), v); }
  void StoreHalfFirst(uint16_t* p, int64_t n) const {
    _mm256_mask_storeu_epi16(p, First(n), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
  }
  // As in vec_avx2.h.
  void StoreBFloatFirst(uint16_t* p, int64_t n) const {
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i up = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
    const __m512i rounded =
        _mm512_mask_or_epi32(_mm512_add_epi32(bits, up), _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q),
                             bits, _mm512_set1_epi32(0x400000));
    _mm512_mask_cvtepi32_storeu_epi16(p, First(n), _mm512_srli_epi32(rounded, 16));
  }
  void StoreInt8(int8_t* p) const { StoreInt8First(p, 16); }
  void StoreInt8First(int8_t* p, int64_t n) const {
    _mm512_mask_cvtepi32_storeu_epi8(p, First(n), _mm512_cvtps_epi32(v));
  }

  static Vec Add(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
  static Vec Sub(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
  static Vec Mul(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
  static Vec Div(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
  static Vec Fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
  static Vec Min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
  static Vec Max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
  static Vec Abs(Vec a) { return {AndBits(a.v, 0x7fffffffu)}; }
  static Vec CopySign(Vec magnitude, Vec sign) {
    return {_mm512_or_ps(AndBits(magnitude.v, 0x7fffffffu), AndBits(sign.v, 0x80000000u))};
  }
  static Vec IfLess(Vec a, Vec b, Vec yes, Vec no) {
    return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), no.v, yes.v)};
  }
  static Vec KeepFirst(Vec a, int64_t n) { return {_mm512_maskz_mov_ps(First(n), a.v)}; }
  static Vec MaxAbsBits(Vec m, Vec x) {
    return {_mm512_castsi512_ps(
        _mm512_max_epu32(_mm512_castps_si512(m.v), _mm512_castps_si512(Abs(x).v)))};
  }
  static Vec PowerOfTwo(Vec t) {
    const __m512i exponent = _mm512_slli_epi32(_mm512_castps_si512(t.v), 23);
    return {_mm512_castsi512_ps(_mm512_add_epi32(exponent, _mm512_set1_epi32(127 << 23)))};
  }

  // Lanes i + i+2, then i + i+1, in every group of four.
  static __m512 SumQuads(__m512 x) {
    x = _mm512_add_ps(x, _mm512_permute_ps(x, 0b01001110));
    return _mm512_add_ps(x, _mm512_permute_ps(x, 0b10110001));
  }
  float Sum() const {
    const __m512 a = _mm512_add_ps(v, _mm512_shuffle_f32x4(v, v, 0b01001110));
    const __m512 b = _mm512_add_ps(a, _mm512_shuffle_f32x4(a, a, 0b10110001));
    return _mm512_cvtss_f32(SumQuads(b));
  }
  // The same tree of four vectors at once.
  static void Sum4(Vec p, Vec q, Vec r, Vec s, float* sums) {
    const __m512 ab = _mm512_add_ps(_mm512_shuffle_f32x4(p.v, q.v, 0b01000100),
                                    _mm512_shuffle_f32x4(p.v, q.v, 0b11101110));
    const __m512 cd = _mm512_add_ps(_mm512_shuffle_f32x4(r.v, s.v, 0b01000100),
                                    _mm512_shuffle_f32x4(r.v, s.v, 0b11101110));
    const __m512 all = SumQuads(_mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0b10001000),
                                              _mm512_shuffle_f32x4(ab, cd, 0b11011101)));
    const __m512i firsts = _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 8, 4, 0);
    _mm_storeu_ps(sums, _mm512_castps512_ps128(_mm512_permutexvar_ps(firsts, all)));
  }
  float MaxLane() const { return _mm512_reduce_max_ps(v); }
  uint32_t MaxBits() const { return _mm512_reduce_max_epu32(_mm512_castps_si512(v)); }
};

}  // namespace
}  // namespace qianyi::cpu
