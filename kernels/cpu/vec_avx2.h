// Sixteen floats in two AVX2 registers; see vec_scalar.h for what each operation means.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace qianyi::cpu {
namespace {

alignas(64) constexpr int32_t kFirstMask[32] = {-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
                                                -1, -1, -1, -1, -1, 0,  0,  0,  0,  0,  0,
                                                0,  0,  0,  0,  0,  0,  0,  0,  0,  0};

struct Vec {
  static constexpr int kQueryRows = 1;
  static constexpr int kValueRows = 2, kValueVecs = 2;
  static constexpr int kFloatTokens = 4;  // of a linear layer with float weights

  __m256 a, b;  // lanes 0..7 and 8..15

  static __m256i FirstA(int64_t n) { return LoadInt(kFirstMask + 16 - n); }
  static __m256i FirstB(int64_t n) { return LoadInt(kFirstMask + 24 - n); }
  static __m256i LoadInt(const void* p) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(p));
  }
  static __m256 Splat(uint32_t bits) {
    return _mm256_castsi256_ps(_mm256_set1_epi32(static_cast<int>(bits)));
  }

  static Vec Set(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
  static Vec Zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static Vec Load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static Vec LoadFirst(const float* p, int64_t n) {
    return {_mm256_maskload_ps(p, FirstA(n)), _mm256_maskload_ps(p + 8, FirstB(n))};
  }
  static Vec LoadHalf(const uint16_t* p) {
    const __m256i half = LoadInt(p);
    return {_mm256_cvtph_ps(_mm256_castsi256_si128(half)),
            _mm256_cvtph_ps(_mm256_extracti128_si256(half, 1))};
  }
  static Vec LoadHalfFirst(const uint16_t* p, int64_t n) {
    uint16_t padded[16] = {};
    for (int64_t i = 0; i < n; ++i) padded[i] = p[i];
    return LoadHalf(padded);
  }
  static Vec LoadBFloat(const uint16_t* p) {
    const __m256i bits = LoadInt(p);
    const auto widen = [](__m128i eight) {
      return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(eight), 16));
    };
    return {widen(_mm256_castsi256_si128(bits)), widen(_mm256_extracti128_si256(bits, 1))};
  }
  static Vec LoadBFloatFirst(const uint16_t* p, int64_t n) {
    uint16_t padded[16] = {};
    for (int64_t i = 0; i < n; ++i) padded[i] = p[i];
    return LoadBFloat(padded);
  }
  static Vec LoadInt8(const int8_t* p) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)))};
  }
  static Vec LoadInt8First(const int8_t* p, int64_t n) {
    int8_t padded[16] = {};
    for (int64_t i = 0; i < n; ++i) padded[i] = p[i];
    return LoadInt8(padded);
  }
  // 32 values in pairs: [0], [2], … and [1], [3], ….
  static void LoadHalfPairs(const std::byte* p, Vec* even, Vec* odd) {
    const __m256i x = LoadInt(p), y = LoadInt(p + 32);
    const __m256i low = _mm256_set1_epi32(0xffff);
    const auto widen = [](__m256i first, __m256i second) -> Vec {
      const __m256i half = _mm256_permute4x64_epi64(_mm256_packus_epi32(first, second), 0b11011000);
      return {_mm256_cvtph_ps(_mm256_castsi256_si128(half)),
              _mm256_cvtph_ps(_mm256_extracti128_si256(half, 1))};
    };
    *even = widen(_mm256_and_si256(x, low), _mm256_and_si256(y, low));
    *odd = widen(_mm256_srli_epi32(x, 16), _mm256_srli_epi32(y, 16));
  }
  static void LoadBf16Pairs(const std::byte* p, Vec* even, Vec* odd) {
    const __m256i x = LoadInt(p), y = LoadInt(p + 32);
    *even = {_mm256_castsi256_ps(_mm256_slli_epi32(x, 16)),
             _mm256_castsi256_ps(_mm256_slli_epi32(y, 16))};
    *odd = {_mm256_and_ps(_mm256_castsi256_ps(x), Splat(0xffff0000u)),
            _mm256_and_ps(_mm256_castsi256_ps(y), Splat(0xffff0000u))};
  }
  void Store(float* p) const {
    _mm256_storeu_ps(p, a);
    _mm256_storeu_ps(p + 8, b);
  }
  void StoreFirst(float* p, int64_t n) const {
    _mm256_maskstore_ps(p, FirstA(n), a);
    _mm256_maskstore_ps(p + 8, FirstB(n), b);
  }
  void StoreHalfFirst(uint16_t* p, int64_t n) const {
    uint16_t half[16];
    _mm_storeu_si128(reinterpret_cast<__m128i*>(half),
                     _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(half + 8),
                     _mm256_cvtps_ph(b, _MM_FROUND_TO_NEAREST_INT));
    for (int64_t i = 0; i < n; ++i) p[i] = half[i];
  }
  // To nearest even: the half below the last bit that is kept, and less where that bit is even.
  // What is not a number keeps its upper bits, and is made quiet.
  static __m256i BFloatBits(__m256 x) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i up = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    return _mm256_srli_epi32(_mm256_blendv_epi8(_mm256_add_epi32(bits, up), quiet, nan), 16);
  }
  void StoreBFloatFirst(uint16_t* p, int64_t n) const {
    alignas(32) uint16_t bits[16];
    _mm256_store_si256(
        reinterpret_cast<__m256i*>(bits),
        _mm256_permute4x64_epi64(_mm256_packus_epi32(BFloatBits(a), BFloatBits(b)), 0b11011000));
    for (int64_t i = 0; i < n; ++i) p[i] = bits[i];
  }
  void StoreInt8(int8_t* p) const {
    const __m256i words = _mm256_permute4x64_epi64(
        _mm256_packs_epi32(_mm256_cvtps_epi32(a), _mm256_cvtps_epi32(b)), 0b11011000);
    _mm_storeu_si128(
        reinterpret_cast<__m128i*>(p),
        _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
  }
  void StoreInt8First(int8_t* p, int64_t n) const {
    int8_t bytes[16];
    StoreInt8(bytes);
    for (int64_t i = 0; i < n; ++i) p[i] = bytes[i];
  }

  static Vec Add(Vec x, Vec y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
  static Vec Sub(Vec x, Vec y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
  static Vec Mul(Vec x, Vec y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
  static Vec Div(Vec x, Vec y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
  static Vec Fma(Vec x, Vec y, Vec z) {
    return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
  }
  static Vec Min(Vec x, Vec y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
  static Vec Max(Vec x, Vec y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
  static Vec And(Vec x, uint32_t mask) {
    return {_mm256_and_ps(x.a, Splat(mask)), _mm256_and_ps(x.b, Splat(mask))};
  }
  static Vec Abs(Vec x) { return And(x, 0x7fffffffu); }
  static Vec CopySign(Vec magnitude, Vec sign) {
    const Vec m = Abs(magnitude), s = And(sign, 0x80000000u);
    return {_mm256_or_ps(m.a, s.a), _mm256_or_ps(m.b, s.b)};
  }
  static Vec IfLess(Vec x, Vec y, Vec yes, Vec no) {
    return {_mm256_blendv_ps(no.a, yes.a, _mm256_cmp_ps(x.a, y.a, _CMP_LT_OQ)),
            _mm256_blendv_ps(no.b, yes.b, _mm256_cmp_ps(x.b, y.b, _CMP_LT_OQ))};
  }
  static Vec KeepFirst(Vec x, int64_t n) {
    return {_mm256_and_ps(x.a, _mm256_castsi256_ps(FirstA(n))),
            _mm256_and_ps(x.b, _mm256_castsi256_ps(FirstB(n)))};
  }
  static __m256 MaxInt(__m256 x, __m256 y) {
    return _mm256_castsi256_ps(_mm256_max_epu32(_mm256_castps_si256(x), _mm256_castps_si256(y)));
  }
  static Vec MaxAbsBits(Vec m, Vec x) {
    x = Abs(x);
    return {MaxInt(m.a, x.a), MaxInt(m.b, x.b)};
  }
  static __m256 PowerOfTwo(__m256 t) {
    const __m256i exponent = _mm256_slli_epi32(_mm256_castps_si256(t), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(exponent, _mm256_set1_epi32(127 << 23)));
  }
  static Vec PowerOfTwo(Vec t) { return {PowerOfTwo(t.a), PowerOfTwo(t.b)}; }

  float Sum() const {
    const __m256 eight = _mm256_add_ps(a, b);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 0b01010101)));
  }
  // The same tree of four vectors at once.
  static void Sum4(Vec x, Vec y, Vec z, Vec w, float* sums) {
    const auto fold = [](Vec f, Vec g) {  // four lanes of f, then four of g
      const __m256 p8 = _mm256_add_ps(f.a, f.b), q8 = _mm256_add_ps(g.a, g.b);
      return _mm256_add_ps(_mm256_permute2f128_ps(p8, q8, 0x20),
                           _mm256_permute2f128_ps(p8, q8, 0x31));
    };
    const __m256 p = fold(x, y), q = fold(z, w);
    const __m256 two =
        _mm256_add_ps(_mm256_shuffle_ps(p, q, 0b01000100), _mm256_shuffle_ps(p, q, 0b11101110));
    const __m256 one = _mm256_add_ps(two, _mm256_permute_ps(two, 0b10110001));
    // Lanes 0, 2, 4 and 6 hold the sums of x, z, y and w.
    const __m128 low = _mm256_castps256_ps128(one), high = _mm256_extractf128_ps(one, 1);
    const __m128 mixed = _mm_shuffle_ps(low, high, 0b10001000);  // x, z, y, w
    _mm_storeu_ps(sums, _mm_shuffle_ps(mixed, mixed, 0b11011000));
  }
  float MaxLane() const {
    const __m256 eight = _mm256_max_ps(a, b);
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(four, _mm_shuffle_ps(four, four, 0b01010101)));
  }
  uint32_t MaxBits() const {
    const __m256i eight = _mm256_castps_si256(MaxInt(a, b));
    __m128i four = _mm_max_epu32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    four = _mm_max_epu32(four, _mm_shuffle_epi32(four, 0b01001110));
    four = _mm_max_epu32(four, _mm_shuffle_epi32(four, 0b10110001));
    return static_cast<uint32_t>(_mm_cvtsi128_si32(four));
  }
};

}  // namespace
}  // namespace qianyi::cpu
