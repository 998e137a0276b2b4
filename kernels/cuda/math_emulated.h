// Arithmetic of a device in plain C++: functions, conversions, and products of fragments.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/cuda/emulation.h"
#include "kernels/packed.h"

namespace qianyi::cuda {
inline namespace emulated {

// A product needs the fragments of all lanes: the last one to come computes it for everybody.
template <typename Sum>
struct Fragments {
  Sum* c;
  const uint32_t* a;
  const uint32_t* b;
};
template <typename Sum, typename Product>
void WarpProduct(Sum (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Product product) {
  Fragments<Sum> mine{c, a, b};
  void** given;
  if (!emulation::ArriveAtWarp(&mine, &given)) return;
  Fragments<Sum>** lanes = reinterpret_cast<Fragments<Sum>**>(given);
  for (int row = 0; row < 16; ++row) {
    for (int col = 0; col < 8; ++col) {
      Sum& sum = lanes[row % 8 * 4 + col / 2]->c[row / 8 * 2 + col % 2];
      for (int i = 0; i < 8; ++i) {  // word i of the row and of the column
        sum = product(lanes[row % 8 * 4 + i % 4]->a[i / 4 * 2 + row / 8],
                      lanes[col * 4 + i % 4]->b[i / 4], sum);
      }
    }
  }
  emulation::CompleteWarp();
}

inline void MmaInt8(int32_t (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  WarpProduct(c, a, b, [](uint32_t x, uint32_t y, int32_t sum) {
    for (int shift = 0; shift < 32; shift += 8) {
      sum += static_cast<int8_t>(x >> shift) * static_cast<int8_t>(y >> shift);
    }
    return sum;
  });
}
// Like hardware it drops the low 13 bits of each factor; the order of the sum and its rounding
// are not published, so results differ from hardware's in the last bits.
inline void MmaTf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  WarpProduct(c, a, b, [](uint32_t x, uint32_t y, float sum) {
    float p, q;
    x &= 0xffffe000u, y &= 0xffffe000u;
    std::memcpy(&p, &x, sizeof(p));
    std::memcpy(&q, &y, sizeof(q));
    return p * q + sum;
  });
}

inline float Fma(float a, float b, float c) { return std::fma(a, b, c); }
inline float Exp(float x) { return std::exp(x); }
inline float Erf(float x) { return std::erf(x); }
inline float Sqrt(float x) { return std::sqrt(x); }
inline float FloatOfHalf(uint16_t bits) { return HalfToFloat(bits); }
inline uint16_t HalfOfFloat(float value) { return FloatToHalf(value); }
inline uint32_t BitsOf(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}
inline float FloatOf(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

}  // namespace emulated
}  // namespace qianyi::cuda
