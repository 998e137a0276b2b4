// Where a slot's keys and values lie, and how its elements widen, over a Vec.
#pragma once

#include "kernels/cpu/row_kernels.h"
#include "kernels/cpu/vec_math.h"

namespace qianyi::cpu {
namespace {

struct F32Cache {
  static constexpr bool kScaled = false;
  template <typename V>
  static V Load(const std::byte* row, int64_t i) {
    return V::Load(reinterpret_cast<const float*>(row) + i);
  }
  template <typename V>
  static V LoadFirst(const std::byte* row, int64_t i, int64_t n) {
    return V::LoadFirst(reinterpret_cast<const float*>(row) + i, n);
  }
};
struct F16Cache {
  static constexpr bool kScaled = false;
  template <typename V>
  static V Load(const std::byte* row, int64_t i) {
    return V::LoadHalf(reinterpret_cast<const uint16_t*>(row) + i);
  }
  template <typename V>
  static V LoadFirst(const std::byte* row, int64_t i, int64_t n) {
    return V::LoadHalfFirst(reinterpret_cast<const uint16_t*>(row) + i, n);
  }
};
struct BF16Cache {
  static constexpr bool kScaled = false;
  template <typename V>
  static V Load(const std::byte* row, int64_t i) {
    return V::LoadBFloat(reinterpret_cast<const uint16_t*>(row) + i);
  }
  template <typename V>
  static V LoadFirst(const std::byte* row, int64_t i, int64_t n) {
    return V::LoadBFloatFirst(reinterpret_cast<const uint16_t*>(row) + i, n);
  }
};

// Integers; what is made of them is multiplied by the scale of a slot and head later.
struct I8Cache {
  static constexpr bool kScaled = true;
  template <typename V>
  static V Load(const std::byte* row, int64_t i) {
    return V::LoadInt8(reinterpret_cast<const int8_t*>(row) + i);
  }
  template <typename V>
  static V LoadFirst(const std::byte* row, int64_t i, int64_t n) {
    return V::LoadInt8First(reinterpret_cast<const int8_t*>(row) + i, n);
  }
};

inline const std::byte* SlotOf(const AttentionBlock& block, const std::byte* base, int64_t stride,
                               int64_t slot) {
  return base + block.page_table[slot / kPageTokens] * block.page_bytes +
         slot % kPageTokens * stride;
}

// rows[r][j] *= the scale of slot begin + j for the kv head of row r. `base` is that of slot 0 of
// page 0 for the block's first head. What lies behind `count` becomes anything.
template <typename V>
void MultiplyByScales(const AttentionBlock& block, const float* base, int64_t begin, int64_t count,
                      float (*rows)[kAttentionSplit]) {
  alignas(64) float scales[kAttentionSplit] = {};
  const int head_rows = block.rows / block.kv_heads;
  const int64_t stride = block.scale_stride * static_cast<int64_t>(sizeof(float));
  for (int head = 0; head < block.kv_heads; ++head) {
    const std::byte* first = reinterpret_cast<const std::byte*>(base + head);
    for (int64_t j = 0; j < count; ++j) {
      scales[j] = *reinterpret_cast<const float*>(SlotOf(block, first, stride, begin + j));
    }
    for (int r = head * head_rows; r < (head + 1) * head_rows; ++r) {
      for (int64_t j = 0; j < count; j += 16) {
        V::Mul(V::Load(rows[r] + j), V::Load(scales + j)).Store(rows[r] + j);
      }
    }
  }
}

}  // namespace
}  // namespace qianyi::cpu
