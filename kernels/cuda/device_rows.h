// Rows of matrices on the device, and sums and maxima over the threads of a block.
#pragma once

#include "kernels/cuda/device.h"

namespace qianyi::cuda::QIANYI_FLAVOUR {

inline int64_t CeilDiv(int64_t value, int64_t divisor) { return (value + divisor - 1) / divisor; }

QIANYI_DEVICE inline Global<float> RowOf(const Tensor& tensor, int64_t row) {
  return Global<float>(static_cast<float*>(tensor.data) + row * tensor.stride, tensor.cols);
}

struct BFloat {
  uint16_t bits;
};
// Rounded to nearest even; what is not a number stays so.
QIANYI_DEVICE inline BFloat BFloatOfFloat(float value) {
  const uint32_t bits = BitsOf(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>(bits >> 16 | 0x40u)};
  return {static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
}

// An element of the cache, f32, f16, bf16 or i8, the last without its scale.
QIANYI_DEVICE inline float Widen(float value) { return value; }
QIANYI_DEVICE inline float Widen(uint16_t value) { return FloatOfHalf(value); }
QIANYI_DEVICE inline float Widen(BFloat value) {
  return FloatOf(static_cast<uint32_t>(value.bits) << 16);
}
QIANYI_DEVICE inline float Widen(int8_t value) { return static_cast<float>(value); }
template <typename T>
inline constexpr bool kScaledCache = sizeof(T) == 1;

// Of i8: of a slot of a page, for a head's key or value.
QIANYI_DEVICE inline float CacheScale(const KvLayer& layer, const std::byte* page, int64_t slot,
                                      int64_t head, bool value) {
  const int64_t values = layer.values_in_keys ? 0 : layer.value_dim;
  const int64_t integers = kPageTokens * layer.kv_heads * (layer.key_dim + values);
  const int64_t scales = kPageTokens * layer.kv_heads;
  const int64_t begin = value && !layer.values_in_keys ? scales : 0;
  return Global<const float>(reinterpret_cast<const float*>(page + integers) + begin, scales)
      .Load(slot * layer.kv_heads + head);
}

// What values become whose largest magnitude has these bits; twins of those in
// quantize_templates.h.
struct Int8Scale {
  float scale, inverse;
  bool finite;
};
QIANYI_DEVICE inline Int8Scale Int8ScaleOf(uint32_t bits) {
  if (bits >= 0x7f800000u) return {FloatOf(0x7fc00000u), 0.0f, false};
  if (bits < (127u - 100u) << 23) return {0.0f, 0.0f, true};  // 127 / m must stay finite
  return {FloatOf(bits) / 127.0f, 127.0f / FloatOf(bits), true};
}
// To nearest, ties to even: adding the constant leaves no fraction.
QIANYI_DEVICE inline int RoundToInt8(float x) {
  const float q = (x + 0x1.8p23f) - 0x1.8p23f;
  return static_cast<int>(q > 127.0f ? 127.0f : q < -127.0f ? -127.0f : q);
}

// The sum over the warp in a fixed tree: lanes i and i ^ 16, then ^ 8, … The same in all lanes.
QIANYI_DEVICE inline float WarpSum(float value) {
  for (int mask = 16; mask > 0; mask /= 2) value += ShuffleXor(value, mask);
  return value;
}
// The larger by bits, for values that are not negative; puts NaN above infinity.
QIANYI_DEVICE inline uint32_t WarpMaxBits(uint32_t value) {
  for (int mask = 16; mask > 0; mask /= 2) {
    const uint32_t other = ShuffleXor(value, mask);
    value = other > value ? other : value;
  }
  return value;
}

// The sum over kThreads threads: by warp, then over the warps in order. The same in all
// threads. `scratch` has an element per warp and may be used again after the next barrier.
template <int kThreads>
QIANYI_DEVICE float BlockSum(float value, const Shared<float>& scratch) {
  value = WarpSum(value);
  if (Lane() == 0) scratch.Store(Warp(), value);
  Barrier();
  float sum = scratch.Load(0);
  for (int warp = 1; warp < kThreads / 32; ++warp) sum += scratch.Load(warp);
  return sum;
}
// WarpMaxBits over kThreads threads, likewise.
template <int kThreads>
QIANYI_DEVICE uint32_t BlockMaxBits(uint32_t value, const Shared<uint32_t>& scratch) {
  value = WarpMaxBits(value);
  if (Lane() == 0) scratch.Store(Warp(), value);
  Barrier();
  for (int warp = 0; warp < kThreads / 32; ++warp) {
    const uint32_t other = scratch.Load(warp);
    value = other > value ? other : value;
  }
  return value;
}

}  // namespace qianyi::cuda::QIANYI_FLAVOUR
