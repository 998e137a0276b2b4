// Quantizing one row of activations, or of weights to int4, over a Vec.
#pragma once

#include "kernels/backend.h"
#include "kernels/cpu/row_templates.h"

namespace qianyi::cpu {
namespace {

// x rounded to a whole number, ties to even; |x| < 2^22.
template <typename V>
V RoundEven(V x) {
  const V magic = V::Set(0x1.8p23f);
  return V::Sub(V::Add(x, magic), magic);
}

// The bits of the largest |x| of n; above 0x7f800000 when there is a NaN.
template <typename V>
uint32_t MaxAbsBitsOf(const float* x, int64_t n) {
  V max = V::Zero();
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) max = V::MaxAbsBits(max, V::Load(x + i));
  if (i < n) max = V::MaxAbsBits(max, V::LoadFirst(x + i, n - i));
  return max.MaxBits();
}

inline constexpr uint32_t kInfinityBits = 0x7f800000u;
// Below 2^-100 a slice counts as zero: 127 / absmax must stay finite.
inline constexpr uint32_t kTinyBits = (127u - 100u) << 23;

// Sixteen values as q in -127..127; the rest of a row is padded with zeros.
template <typename V>
V QuantizeVec(const float* x, int64_t left, V inverse) {
  if (left <= 0) return V::Zero();
  const V v = left >= 16 ? V::Load(x) : V::LoadFirst(x, left);
  const V q = RoundEven(V::Mul(v, inverse));
  return V::Max(V::Set(-127.0f), V::Min(V::Set(127.0f), q));
}

// How values with this largest magnitude become integers.
struct Int8Scale {
  float scale;
  float inverse;
  bool finite;  // else the values are zero, and the NaN scale makes every result NaN
};
inline Int8Scale Int8ScaleOf(uint32_t bits) {
  if (bits >= kInfinityBits) return {__builtin_nanf(""), 0.0f, false};
  if (bits < kTinyBits) return {0.0f, 0.0f, true};
  float absmax;
  __builtin_memcpy(&absmax, &bits, sizeof(absmax));
  return {absmax / 127.0f, 127.0f / absmax, true};
}

template <typename V>
void QuantizeRow(const float* x, int64_t cols, int8_t* values, float* scales, int32_t* sums) {
  const int64_t padded = (cols + kTileCols - 1) / kTileCols * kTileCols;
  for (int64_t begin = 0; begin < cols; begin += kSliceCols) {
    const int64_t n = cols - begin < kSliceCols ? cols - begin : kSliceCols;
    const int64_t padded_n = padded - begin < kSliceCols ? padded - begin : kSliceCols;
    const Int8Scale to = Int8ScaleOf(MaxAbsBitsOf<V>(x + begin, n));
    const V inverse = V::Set(to.inverse);
    const int64_t quantized = to.finite ? n : 0;
    scales[begin / kSliceCols] = to.scale;
    for (int64_t i = 0; i < padded_n; i += 32) {
      const V a = QuantizeVec<V>(x + begin + i, quantized - i, inverse);
      const V b = QuantizeVec<V>(x + begin + i + 16, quantized - i - 16, inverse);
      a.StoreInt8(values + begin + i);
      b.StoreInt8(values + begin + i + 16);
      sums[(begin + i) / 32] = static_cast<int32_t>(V::Add(a, b).Sum());  // exact
    }
  }
}

template <typename V>
float ToInt8Row(const float* x, int64_t n, int8_t* out) {
  const Int8Scale to = Int8ScaleOf(MaxAbsBitsOf<V>(x, n));
  const V inverse = V::Set(to.inverse);
  for (int64_t i = 0; i < n; i += 16) {
    const V q = QuantizeVec<V>(x + i, to.finite ? n - i : 0, inverse);
    q.StoreInt8First(out + i, n - i < 16 ? n - i : 16);
  }
  return to.scale;
}

// Σ (x - q scale)² with q = x / scale rounded and clamped to -8..7. Not fused, so that
// it is as fast where the processor has no fma.
template <typename V>
float Int4Error(const float* x, int64_t n, float scale) {
  const V inverse = V::Set(1.0f / scale), step = V::Set(scale);
  const V low = V::Set(-8.0f), high = V::Set(7.0f);
  V error = V::Zero();
  for (int64_t i = 0; i < n; i += 16) {
    const V v = n - i >= 16 ? V::Load(x + i) : V::LoadFirst(x + i, n - i);
    const V q = V::Max(low, V::Min(high, RoundEven(V::Mul(v, inverse))));
    const V d = V::Sub(v, V::Mul(q, step));
    error = V::Add(error, V::Mul(d, d));
  }
  return error.Sum();
}

template <typename V>
void Int4Values(const float* x, int64_t n, float scale, int8_t* values) {
  const V inverse = V::Set(1.0f / scale);
  const V low = V::Set(-8.0f), high = V::Set(7.0f);
  for (int64_t i = 0; i < n; i += 16) {
    const int64_t left = n - i < 16 ? n - i : 16;
    const V v = V::LoadFirst(x + i, left);
    V::Max(low, V::Min(high, RoundEven(V::Mul(v, inverse)))).StoreInt8First(values + i, left);
  }
}

// The value with the largest magnitude, the positive one of equals.
template <typename V>
float ExtremeOf(const float* x, int64_t n) {
  V high = V::Zero(), low = V::Zero();
  for (int64_t i = 0; i < n; i += 16) {
    const V v = n - i >= 16 ? V::Load(x + i) : V::LoadFirst(x + i, n - i);
    high = V::Max(high, v);
    low = V::Max(low, V::Sub(V::Zero(), v));
  }
  const float largest = high.MaxLane(), smallest = low.MaxLane();
  return largest >= smallest ? largest : -smallest;
}

// One scale for n values: the extreme value maps on -8, or is clipped where that makes
// the squared error smaller.
template <typename V>
float BestInt4Scale(const float* x, int64_t n) {
  const float full = ExtremeOf<V>(x, n) / -8.0f;
  float best = full, best_error = Int4Error<V>(x, n, full);
  for (int step = 1; step <= 20; ++step) {
    const float scale = full * (1.0f - 0.03f * static_cast<float>(step));
    const float error = Int4Error<V>(x, n, scale);
    if (error < best_error) best = scale, best_error = error;
  }
  return best;
}

// The group scale in -15..16 with the least squared error, given the row's scale.
template <typename V>
int BestGroupScale(const float* x, int64_t n, float row_scale) {
  const float ideal = ExtremeOf<V>(x, n) / -8.0f / row_scale;
  const int middle = static_cast<int>(ideal < 0 ? ideal - 0.5f : ideal + 0.5f);
  int best = 0;
  float best_error = 0.0f;
  // Around the ideal, and around the same with the opposite sign.
  for (int candidate = 0; candidate < 8; ++candidate) {
    const int magnitude = (middle < 0 ? -middle : middle) + (candidate % 4) - 2;
    const int sign = (middle < 0) == (candidate < 4) ? -1 : 1;
    const int scale = sign * magnitude;
    if (magnitude <= 0 || scale < -15 || scale > 16) continue;
    const float error = Int4Error<V>(x, n, row_scale * static_cast<float>(scale));
    if (best == 0 || error < best_error) best = scale, best_error = error;
  }
  return best == 0 ? 1 : best;
}

template <typename V>
void QuantizeInt4Row(const float* x, int64_t cols, int group, float* row_scale, int8_t* group_scale,
                     int8_t* values) {
  const uint32_t bits = MaxAbsBitsOf<V>(x, cols);
  if (bits >= kInfinityBits || bits < kTinyBits) {
    *row_scale = bits >= kInfinityBits ? __builtin_nanf("") : 0.0f;
    for (int64_t i = 0; i < cols; ++i) values[i] = 0;
    for (int64_t i = 0; group > 0 && i * group < cols; ++i) group_scale[i] = 1;
    return;
  }
  if (group == 0) {
    *row_scale = BestInt4Scale<V>(x, cols);
    Int4Values<V>(x, cols, *row_scale, values);
    return;
  }
  float absmax;
  __builtin_memcpy(&absmax, &bits, sizeof(absmax));
  *row_scale = absmax / 8.0f / 15.0f;
  for (int64_t begin = 0; begin < cols; begin += group) {
    const int64_t n = cols - begin < group ? cols - begin : group;
    const int scale = BestGroupScale<V>(x + begin, n, *row_scale);
    group_scale[begin / group] = static_cast<int8_t>(scale);
    Int4Values<V>(x + begin, n, *row_scale * static_cast<float>(scale), values + begin);
  }
}

// Keys and values of a cache in sixteen bits.
template <typename V>
void ToHalfRow(const float* x, int64_t n, uint16_t* out) {
  ForEachVec(
      n, [&](int64_t i) { V::Load(x + i).StoreHalfFirst(out + i, 16); },
      [&](int64_t i, int64_t left) { V::LoadFirst(x + i, left).StoreHalfFirst(out + i, left); });
}

template <typename V>
void ToBFloatRow(const float* x, int64_t n, uint16_t* out) {
  ForEachVec(
      n, [&](int64_t i) { V::Load(x + i).StoreBFloatFirst(out + i, 16); },
      [&](int64_t i, int64_t left) { V::LoadFirst(x + i, left).StoreBFloatFirst(out + i, left); });
}

}  // namespace
}  // namespace qianyi::cpu
