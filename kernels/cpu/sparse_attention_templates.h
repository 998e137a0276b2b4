// Attention of one head of one token over a list of slots, over a Vec. Order of the sums:
// docs/numerics.md.
#pragma once

#include "kernels/cpu/attention_templates.h"

namespace qianyi::cpu {
namespace {

template <typename V, typename Cache>
float DotKey(const SparseHead& head, const std::byte* key) {
  V sum = V::Zero();
  int64_t d = 0;
  for (; d + 16 <= head.key_dim; d += 16) {
    sum = V::Fma(V::Load(head.q + d), Cache::template Load<V>(key, d), sum);
  }
  if (d < head.key_dim) {
    const int64_t n = head.key_dim - d;
    sum = V::Fma(V::LoadFirst(head.q + d, n), Cache::template LoadFirst<V>(key, d, n), sum);
  }
  return sum.Sum();
}

template <typename V, typename Cache>
void AttendSlotsOf(const SparseHead& head) {
  const auto row = [&](const std::byte* base, int64_t stride, int64_t i) {
    const int32_t slot = head.slots[i];
    return base + head.page_table[slot / kPageTokens] * head.page_bytes +
           slot % kPageTokens * stride;
  };
  [[maybe_unused]] const auto scale = [&](const float* base, int64_t i) {
    const int64_t stride = head.scale_stride * static_cast<int64_t>(sizeof(float));
    return *reinterpret_cast<const float*>(
        row(reinterpret_cast<const std::byte*>(base), stride, i));
  };
  for (int64_t i = 0; i < head.count; ++i) {
    float dot = DotKey<V, Cache>(head, row(head.keys, head.key_stride, i));
    if constexpr (Cache::kScaled) dot *= scale(head.key_scales, i);
    head.scores[i] = __builtin_fmaf(head.scale, dot, i < head.pivots ? head.pivot_bias : 0.0f);
  }
  float max, sum;
  SoftmaxRow<V>(head.scores, head.count, &max, &sum);
  if constexpr (Cache::kScaled) {
    for (int64_t i = 0; i < head.count; ++i) head.scores[i] *= scale(head.value_scales, i);
  }
  const V inverse = V::Set(1.0f / sum);
  for (int64_t d = 0; d < head.value_dim; d += 16) {
    const int64_t n = head.value_dim - d < 16 ? head.value_dim - d : 16;
    V total = V::Zero();
    for (int64_t i = 0; i < head.count; ++i) {
      const std::byte* value = row(head.values, head.value_stride, i);
      total = V::Fma(V::Set(head.scores[i]), Cache::template LoadFirst<V>(value, d, n), total);
    }
    V::Mul(total, inverse).StoreFirst(head.out + d, n);
  }
}

template <typename V>
void AttendSlots(const SparseHead& head) {
  if (head.dtype == DType::kF32) {
    AttendSlotsOf<V, F32Cache>(head);
  } else if (head.dtype == DType::kI8) {
    AttendSlotsOf<V, I8Cache>(head);
  } else if (head.dtype == DType::kBF16) {
    AttendSlotsOf<V, BF16Cache>(head);
  } else {
    AttendSlotsOf<V, F16Cache>(head);
  }
}

}  // namespace
}  // namespace qianyi::cpu
