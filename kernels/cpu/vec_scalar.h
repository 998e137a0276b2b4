// Sixteen floats in plain C++: the arithmetic that every instruction set repeats. The
// row kernels are templates over this type and its twins in vec_avx2.h and vec_avx512.h.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/packed.h"

namespace qianyi::cpu {
namespace {

struct Vec {
  // Register blocks of attention: query rows × 4 keys, and query rows × vectors of values.
  static constexpr int kQueryRows = 1;
  static constexpr int kValueRows = 1, kValueVecs = 1;

  float lane[16];

  static Vec Set(float value) {
    Vec v;
    for (float& x : v.lane) x = value;
    return v;
  }
  static Vec Zero() { return Set(0.0f); }
  static Vec Load(const float* p) {
    Vec v;
    std::memcpy(v.lane, p, sizeof(v.lane));
    return v;
  }
  // The first n of 16; zeros after them.
  static Vec LoadFirst(const float* p, int64_t n) {
    Vec v = Zero();
    for (int64_t i = 0; i < n; ++i) v.lane[i] = p[i];
    return v;
  }
  static Vec LoadInt32(const int32_t* p) {
    Vec v;
    for (int i = 0; i < 16; ++i) v.lane[i] = static_cast<float>(p[i]);
    return v;
  }
  static Vec LoadHalf(const uint16_t* p) {
    Vec v;
    for (int i = 0; i < 16; ++i) v.lane[i] = HalfToFloat(p[i]);
    return v;
  }
  static Vec LoadHalfFirst(const uint16_t* p, int64_t n) {
    Vec v = Zero();
    for (int64_t i = 0; i < n; ++i) v.lane[i] = HalfToFloat(p[i]);
    return v;
  }
  static Vec LoadBFloat(const uint16_t* p) { return LoadBFloatFirst(p, 16); }
  static Vec LoadBFloatFirst(const uint16_t* p, int64_t n) {
    Vec v = Zero();
    for (int64_t i = 0; i < n; ++i) v.lane[i] = BFloat16ToFloat(p[i]);
    return v;
  }
  static Vec LoadInt8(const int8_t* p) { return LoadInt8First(p, 16); }
  static Vec LoadInt8First(const int8_t* p, int64_t n) {
    Vec v = Zero();
    for (int64_t i = 0; i < n; ++i) v.lane[i] = static_cast<float>(p[i]);
    return v;
  }
  void Store(float* p) const { std::memcpy(p, lane, sizeof(lane)); }
  void StoreFirst(float* p, int64_t n) const {
    for (int64_t i = 0; i < n; ++i) p[i] = lane[i];
  }
  void StoreHalfFirst(uint16_t* p, int64_t n) const {
    for (int64_t i = 0; i < n; ++i) p[i] = FloatToHalf(lane[i]);
  }
  void StoreBFloatFirst(uint16_t* p, int64_t n) const {
    for (int64_t i = 0; i < n; ++i) p[i] = FloatToBFloat16(lane[i]);
  }
  // For whole numbers in -128..127.
  void StoreInt8(int8_t* p) const {
    for (int i = 0; i < 16; ++i) p[i] = static_cast<int8_t>(lane[i]);
  }
  void StoreInt8First(int8_t* p, int64_t n) const {
    for (int64_t i = 0; i < n; ++i) p[i] = static_cast<int8_t>(lane[i]);
  }

  template <typename Op>
  static Vec Map(Vec a, Vec b, Op op) {
    for (int i = 0; i < 16; ++i) a.lane[i] = op(a.lane[i], b.lane[i]);
    return a;
  }
  static uint32_t Bits(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof(bits));
    return bits;
  }
  static float FromBits(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof(x));
    return x;
  }

  static Vec Add(Vec a, Vec b) {
    return Map(a, b, [](float x, float y) { return x + y; });
  }
  static Vec Sub(Vec a, Vec b) {
    return Map(a, b, [](float x, float y) { return x - y; });
  }
  static Vec Mul(Vec a, Vec b) {
    return Map(a, b, [](float x, float y) { return x * y; });
  }
  static Vec Div(Vec a, Vec b) {
    return Map(a, b, [](float x, float y) { return x / y; });
  }
  // a * b + c, rounded once.
  static Vec Fma(Vec a, Vec b, Vec c) {
    for (int i = 0; i < 16; ++i) a.lane[i] = __builtin_fmaf(a.lane[i], b.lane[i], c.lane[i]);
    return a;
  }
  // b when either is NaN, as the processor has it.
  static Vec Min(Vec a, Vec b) {
    return Map(a, b, [](float x, float y) { return x < y ? x : y; });
  }
  static Vec Max(Vec a, Vec b) {
    return Map(a, b, [](float x, float y) { return x > y ? x : y; });
  }
  static Vec Abs(Vec a) {
    for (float& x : a.lane) x = FromBits(Bits(x) & 0x7fffffffu);
    return a;
  }
  static Vec CopySign(Vec magnitude, Vec sign) {
    return Map(magnitude, sign, [](float m, float s) {
      return FromBits((Bits(m) & 0x7fffffffu) | (Bits(s) & 0x80000000u));
    });
  }
  // a < b ? yes : no.
  static Vec IfLess(Vec a, Vec b, Vec yes, Vec no) {
    for (int i = 0; i < 16; ++i) a.lane[i] = a.lane[i] < b.lane[i] ? yes.lane[i] : no.lane[i];
    return a;
  }
  // Zeros from lane n on.
  static Vec KeepFirst(Vec a, int64_t n) {
    for (int64_t i = n; i < 16; ++i) a.lane[i] = 0.0f;
    return a;
  }
  // The larger of m and |x| by their bits, which puts NaN above infinity.
  static Vec MaxAbsBits(Vec m, Vec x) {
    return Map(m, x, [](float a, float b) {
      const uint32_t bits = Bits(b) & 0x7fffffffu;
      return Bits(a) > bits ? a : FromBits(bits);
    });
  }
  // 2^n for t = n + 1.5·2^23, whole n in -126..127; only the bits matter.
  static Vec PowerOfTwo(Vec t) {
    for (float& x : t.lane) x = FromBits((Bits(x) << 23) + (127u << 23));
    return t;
  }

  // The fixed tree: lanes i + i+8, then i + i+4, i + i+2, i + i+1.
  float Sum() const {
    float sum[16];
    std::memcpy(sum, lane, sizeof(sum));
    for (int half = 8; half > 0; half /= 2) {
      for (int i = 0; i < half; ++i) sum[i] += sum[i + half];
    }
    return sum[0];
  }
  static void Sum4(Vec x, Vec y, Vec z, Vec w, float* sums) {
    sums[0] = x.Sum();
    sums[1] = y.Sum();
    sums[2] = z.Sum();
    sums[3] = w.Sum();
  }
  float MaxLane() const {
    float max = lane[0];
    for (float x : lane) max = max > x ? max : x;
    return max;
  }
  uint32_t MaxBits() const {
    uint32_t max = 0;
    for (float x : lane) max = Bits(x) > max ? Bits(x) : max;
    return max;
  }
};

}  // namespace
}  // namespace qianyi::cpu
