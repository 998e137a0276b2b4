// int4 weights times their group scales as int8 tiles.
#include <immintrin.h>

#include "kernels/cpu/row_kernels.h"

namespace qianyi::cpu {
namespace {

// (u - 8) * scale for 64 bytes of nibbles u. A 16-bit multiplication serves two
// bytes at once because u·|scale| is at most 240 and never carries; a negative scale
// would borrow, so the sign comes last, and -8·16 = -128 arises only from a positive one.
__m512i Weights(__m512i nibbles, __m512i magnitude, __m512i eight_magnitude, __m512i sign) {
  const __m512i product = _mm512_mullo_epi16(nibbles, magnitude);
  const __m512i centred = _mm512_sub_epi8(product, eight_magnitude);
  return _mm512_sub_epi8(_mm512_xor_si512(centred, sign), sign);
}

struct Scales {
  __m512i magnitude;  // 16-bit lanes
  __m512i eight;      // bytes: 8 · magnitude
  __m512i sign;       // bytes: -1 where negative
};

Scales LoadScales(const std::byte* p) {
  const __m512i wide = _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const __m512i magnitude = _mm512_abs_epi32(wide);
  const __m512i low_byte =
      _mm512_set_epi8(12, 12, 12, 12, 8, 8, 8, 8, 4, 4, 4, 4, 0, 0, 0, 0, 12, 12, 12, 12, 8, 8, 8,
                      8, 4, 4, 4, 4, 0, 0, 0, 0, 12, 12, 12, 12, 8, 8, 8, 8, 4, 4, 4, 4, 0, 0, 0, 0,
                      12, 12, 12, 12, 8, 8, 8, 8, 4, 4, 4, 4, 0, 0, 0, 0);
  Scales scales;
  scales.magnitude = _mm512_or_si512(magnitude, _mm512_slli_epi32(magnitude, 16));
  scales.eight = _mm512_shuffle_epi8(_mm512_slli_epi32(magnitude, 3), low_byte);
  scales.sign = _mm512_srai_epi32(wide, 31);
  return scales;
}

}  // namespace

void UnpackInt4Avx512(const LinearBlock& block, const std::byte* panel, int64_t begin,
                      int64_t tiles, int8_t* out) {
  const std::byte* w = panel + block.tile_offset + begin * 8;
  const std::byte* scales = panel + kPanelRows * sizeof(float);
  const int shift = block.group == 32 ? 5 : block.group == 64 ? 6 : 7;
  const __m512i mask = _mm512_set1_epi8(15);
  const __m512i eight = _mm512_set1_epi8(8);
  for (int64_t tile = 0; tile < tiles; ++tile, w += 512, out += 1024) {
    Scales low{}, high{};
    if (block.group > 0) {
      const int64_t col = begin + tile * kTileCols;
      low = LoadScales(scales + (col >> shift) * kPanelRows);
      high = LoadScales(scales + ((col + 32) >> shift) * kPanelRows);
    }
    for (int quad = 0; quad < 8; ++quad) {
      if (block.prefetch) __builtin_prefetch(w + quad * 64 + 2048);
      const __m512i both = _mm512_loadu_si512(w + quad * 64);
      __m512i first = _mm512_and_si512(both, mask);
      __m512i second = _mm512_and_si512(_mm512_srli_epi16(both, 4), mask);
      if (block.group > 0) {
        first = Weights(first, low.magnitude, low.eight, low.sign);
        second = Weights(second, high.magnitude, high.eight, high.sign);
      } else {
        first = _mm512_sub_epi8(first, eight);
        second = _mm512_sub_epi8(second, eight);
      }
      _mm512_store_si512(out + quad * 64, first);
      _mm512_store_si512(out + 512 + quad * 64, second);
    }
  }
}

}  // namespace qianyi::cpu
