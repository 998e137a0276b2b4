// The first half of attention, over a Vec: keys to scores, and their softmax within a split.
#pragma once

#include "kernels/cpu/attention_cache.h"
#include "kernels/cpu/row_kernels.h"
#include "kernels/cpu/unroll.h"
#include "kernels/cpu/vec_math.h"

namespace qianyi::cpu {
namespace {

// scores[r][k] = scale · q[r]·key[k] for kRows rows and four consecutive slots.
template <typename V, typename Cache, int kRows>
void ScoreTile(const float* const* q, const std::byte* key, const AttentionBlock& block,
               float* scores) {
  V sum[kRows * 4];
  Unroll<kRows * 4>(QIANYI_EACH(i) { sum[i] = V::Zero(); });
  int64_t d = 0;
  for (; d + 16 <= block.key_dim; d += 16) {
    V keys[4];
    Unroll<4>(QIANYI_EACH(k) { keys[k] = Cache::template Load<V>(key + k * block.key_stride, d); });
    Unroll<kRows>(QIANYI_EACH(r) {
      const V query = V::Load(q[r] + d);
      Unroll<4>(QIANYI_EACH(k) { sum[r * 4 + k] = V::Fma(query, keys[k], sum[r * 4 + k]); });
    });
  }
  if (d < block.key_dim) {
    const int64_t n = block.key_dim - d;
    V keys[4];
    Unroll<4>(QIANYI_EACH(k) {
      keys[k] = Cache::template LoadFirst<V>(key + k * block.key_stride, d, n);
    });
    Unroll<kRows>(QIANYI_EACH(r) {
      const V query = V::LoadFirst(q[r] + d, n);
      Unroll<4>(QIANYI_EACH(k) { sum[r * 4 + k] = V::Fma(query, keys[k], sum[r * 4 + k]); });
    });
  }
  Unroll<kRows>(QIANYI_EACH(r) {
    float dots[4];
    V::Sum4(sum[r * 4], sum[r * 4 + 1], sum[r * 4 + 2], sum[r * 4 + 3], dots);
    for (int k = 0; k < 4; ++k) scores[r * kAttentionSplit + k] = block.scale * dots[k];
  });
}

// The keys of one head are short runs with gaps, which processors do not guess: ask for
// those of the next page, and for the values that the split wants next.
inline void PrefetchSlots(const AttentionBlock& block, int64_t slot, int64_t end) {
  const int64_t element = block.element_bytes;
  for (int64_t k = slot; k < slot + 4 && k < end; ++k) {
    const std::byte* value = SlotOf(block, block.values, block.value_stride, k);
    for (int64_t i = 0; i < block.value_dim * element; i += 64) __builtin_prefetch(value + i, 0, 2);
    if (k + kPageTokens >= end) continue;
    const std::byte* key = SlotOf(block, block.keys, block.key_stride, k + kPageTokens);
    for (int64_t i = 0; i < block.key_dim * element; i += 64) __builtin_prefetch(key + i);
  }
}

// Four slots at a time: a page is whole in memory, and what is not visible is dropped
// afterwards.
template <typename V, typename Cache>
void ScoreSplit(const AttentionBlock& block, int64_t begin, int64_t count,
                float (*scores)[kAttentionSplit]) {
  constexpr int kRows = V::kQueryRows;
  const int head_rows = block.rows / block.kv_heads;
  const int64_t head_bytes = block.key_dim * block.element_bytes;
  for (int64_t j = 0; j < count; j += 4) {
    if (block.kv_heads == 1) PrefetchSlots(block, begin + j, begin + count);
    const std::byte* key = SlotOf(block, block.keys, block.key_stride, begin + j);
    for (int first = 0; first < block.rows; first += head_rows, key += head_bytes) {
      int r = first;
      for (; r + kRows <= first + head_rows; r += kRows) {
        ScoreTile<V, Cache, kRows>(block.q + r, key, block, &scores[r][j]);
      }
      for (; r < first + head_rows; ++r) {
        ScoreTile<V, Cache, 1>(block.q + r, key, block, &scores[r][j]);
      }
    }
  }
}

// scores become exp(score - max); their sum is 16 lanes by slot, then the tree.
template <typename V>
void SoftmaxRow(float* scores, int64_t count, float* max, float* sum) {
  const V lowest = V::Set(-__builtin_inff());
  V max_vec = lowest;
  int64_t j = 0;
  for (; j + 16 <= count; j += 16) max_vec = V::Max(max_vec, V::Load(scores + j));
  *max = max_vec.MaxLane();
  for (; j < count; ++j) *max = scores[j] > *max ? scores[j] : *max;
  const V shift = V::Set(*max);
  V sum_vec = V::Zero();
  for (j = 0; j + 16 <= count; j += 16) {
    const V p = Exp(V::Sub(V::Load(scores + j), shift));
    p.Store(scores + j);
    sum_vec = V::Add(sum_vec, p);
  }
  if (j < count) {
    const int64_t n = count - j;
    const V p = V::KeepFirst(Exp(V::Sub(V::LoadFirst(scores + j, n), shift)), n);
    p.StoreFirst(scores + j, n);
    sum_vec = V::Add(sum_vec, p);
  }
  *sum = sum_vec.Sum();
}

}  // namespace
}  // namespace qianyi::cpu
