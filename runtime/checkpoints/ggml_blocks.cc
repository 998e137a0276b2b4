#include "runtime/checkpoints/ggml_blocks.h"

#include <cstring>

#include "kernels/packed.h"

namespace qianyi::ggml {
namespace {

float Half(const std::byte* at) {
  uint16_t bits;
  std::memcpy(&bits, at, sizeof(bits));
  return HalfToFloat(bits);
}

uint8_t Byte(const std::byte* at, int index) { return std::to_integer<uint8_t>(at[index]); }
int8_t Signed(const std::byte* at, int index) { return static_cast<int8_t>(Byte(at, index)); }

// Blocks of 32 with 4 or 5 bits: element i is in the low, element i + 16 in the high nibble of
// byte i; fifth bits are bits i of a word. w = scale * q + offset.
template <int kBits, bool kHasMinimum>
void Unpack32(const std::byte* from, int64_t elements, float* to) {
  constexpr int kHead = kHasMinimum ? 4 : 2;
  constexpr int kBytes = kHead + (kBits == 5 ? 4 : 0) + 16;
  for (int64_t block = 0; block < elements / 32; ++block, from += kBytes, to += 32) {
    const float scale = Half(from);
    const float minimum = kHasMinimum ? Half(from + 2) : 0;
    const int middle = kHasMinimum ? 0 : 1 << (kBits - 1);
    uint32_t fifth = 0;
    if (kBits == 5) std::memcpy(&fifth, from + kHead, sizeof(fifth));
    const std::byte* nibbles = from + kBytes - 16;
    for (int i = 0; i < 16; ++i) {
      const int low = (Byte(nibbles, i) & 15) | ((fifth >> i & 1) << 4);
      const int high = (Byte(nibbles, i) >> 4) | ((fifth >> (i + 16) & 1) << 4);
      to[i] = static_cast<float>(low - middle) * scale + minimum;
      to[i + 16] = static_cast<float>(high - middle) * scale + minimum;
    }
  }
}

// The eight 6-bit scales and minima of Q4_K and Q5_K in 12 bytes.
void ScaleAndMinimum(const std::byte* packed, int index, int* scale, int* minimum) {
  if (index < 4) {
    *scale = Byte(packed, index) & 63;
    *minimum = Byte(packed, index + 4) & 63;
  } else {
    *scale = (Byte(packed, index + 4) & 15) | (Byte(packed, index - 4) >> 6 << 4);
    *minimum = (Byte(packed, index + 4) >> 4) | (Byte(packed, index) >> 6 << 4);
  }
}

// Blocks of 256: half scale, half minimum, 12 bytes of scales, with 5 bits 32 bytes of fifth bits,
// 128 bytes of nibbles. Each 64 elements share 32 bytes of nibbles: low ones first.
template <int kBits>
void Unpack256(const std::byte* from, int64_t elements, float* to) {
  constexpr int kFifth = kBits == 5 ? 32 : 0;
  constexpr int kBytes = 16 + kFifth + 128;
  for (int64_t block = 0; block < elements / 256; ++block, from += kBytes, to += 256) {
    const float scale = Half(from), minimum = Half(from + 2);
    for (int part = 0; part < 8; ++part) {
      int part_scale, part_minimum;
      ScaleAndMinimum(from + 4, part, &part_scale, &part_minimum);
      const float d = scale * part_scale, m = minimum * part_minimum;
      const std::byte* nibbles = from + 16 + kFifth + part / 2 * 32;
      for (int i = 0; i < 32; ++i) {
        int q = part % 2 == 0 ? Byte(nibbles, i) & 15 : Byte(nibbles, i) >> 4;
        if (kBits == 5) q |= (Byte(from + 16, i) >> part & 1) << 4;
        to[part * 32 + i] = d * q - m;
      }
    }
  }
}

}  // namespace

void Q8_0ToFloats(const std::byte* from, int64_t elements, float* to) {
  for (int64_t block = 0; block < elements / 32; ++block, from += 34, to += 32) {
    const float scale = Half(from);
    for (int i = 0; i < 32; ++i) to[i] = static_cast<float>(Signed(from + 2, i)) * scale;
  }
}

void Q4_0ToFloats(const std::byte* from, int64_t elements, float* to) {
  Unpack32<4, false>(from, elements, to);
}
void Q4_1ToFloats(const std::byte* from, int64_t elements, float* to) {
  Unpack32<4, true>(from, elements, to);
}
void Q5_0ToFloats(const std::byte* from, int64_t elements, float* to) {
  Unpack32<5, false>(from, elements, to);
}
void Q5_1ToFloats(const std::byte* from, int64_t elements, float* to) {
  Unpack32<5, true>(from, elements, to);
}
void Q4_KToFloats(const std::byte* from, int64_t elements, float* to) {
  Unpack256<4>(from, elements, to);
}
void Q5_KToFloats(const std::byte* from, int64_t elements, float* to) {
  Unpack256<5>(from, elements, to);
}

// Blocks of 256: 128 bytes of low nibbles, 64 bytes of high bit pairs, 16 int8 scales, a half
// scale. Each 128 elements are four groups of 32 that share bytes.
void Q6_KToFloats(const std::byte* from, int64_t elements, float* to) {
  for (int64_t block = 0; block < elements / 256; ++block, from += 210) {
    const std::byte* scales = from + 192;
    const float scale = Half(from + 208);
    for (int half = 0; half < 2; ++half, to += 128) {
      const std::byte* low = from + half * 64;
      const std::byte* high = from + 128 + half * 32;
      for (int group = 0; group < 4; ++group) {
        for (int i = 0; i < 32; ++i) {
          const int nibbles = Byte(low, i + group % 2 * 32);
          const int q =
              (group < 2 ? nibbles & 15 : nibbles >> 4) | (Byte(high, i) >> (2 * group) & 3) << 4;
          const int part = half * 8 + group * 2 + i / 16;
          to[group * 32 + i] = scale * Signed(scales, part) * (q - 32);
        }
      }
    }
  }
}

}  // namespace qianyi::ggml
