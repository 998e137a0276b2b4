// Attention of a block of query rows over the paged cache, over a Vec. The order of every
// sum is in docs/numerics.md; how many rows and keys share registers changes nothing.
#pragma once

#include "kernels/cpu/row_kernels.h"
#include "kernels/cpu/vec_math.h"

namespace qianyi::cpu {
namespace {

struct F32Cache {
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
  template <typename V>
  static V Load(const std::byte* row, int64_t i) {
    return V::LoadHalf(reinterpret_cast<const uint16_t*>(row) + i);
  }
  template <typename V>
  static V LoadFirst(const std::byte* row, int64_t i, int64_t n) {
    return V::LoadHalfFirst(reinterpret_cast<const uint16_t*>(row) + i, n);
  }
};

// scores[r][k] = scale · q[r]·key[k] for kRows rows and V::kKeys consecutive slots.
template <typename V, typename Cache, int kRows>
void ScoreTile(const float* const* q, const std::byte* key, const AttentionBlock& block,
               float* scores) {
  constexpr int kKeys = V::kKeys;
  V sum[kRows][kKeys];
  for (int r = 0; r < kRows; ++r) {
    for (int k = 0; k < kKeys; ++k) sum[r][k] = V::Zero();
  }
  int64_t i = 0;
  for (; i + 16 <= block.key_dim; i += 16) {
    V key_vec[kKeys];
    for (int k = 0; k < kKeys; ++k) {
      key_vec[k] = Cache::template Load<V>(key + k * block.key_stride, i);
    }
    for (int r = 0; r < kRows; ++r) {
      const V q_vec = V::Load(q[r] + i);
      for (int k = 0; k < kKeys; ++k) sum[r][k] = V::Fma(q_vec, key_vec[k], sum[r][k]);
    }
  }
  if (i < block.key_dim) {
    const int64_t n = block.key_dim - i;
    for (int r = 0; r < kRows; ++r) {
      const V q_vec = V::LoadFirst(q[r] + i, n);
      for (int k = 0; k < kKeys; ++k) {
        const V key_vec = Cache::template LoadFirst<V>(key + k * block.key_stride, i, n);
        sum[r][k] = V::Fma(q_vec, key_vec, sum[r][k]);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int k = 0; k < kKeys; k += 4) {
      float dots[4];
      V::Sum4(&sum[r][k], dots);
      for (int j = 0; j < 4; ++j) scores[r * kAttentionSplit + k + j] = block.scale * dots[j];
    }
  }
}

// All slots of the pages that [begin, begin + count) touches: a page is always whole in
// memory, and what is not visible is dropped afterwards.
template <typename V, typename Cache>
void ScoreSplit(const AttentionBlock& block, int64_t begin, int64_t count,
                float (*scores)[kAttentionSplit]) {
  constexpr int kRows = V::kQueryRows;
  for (int64_t j = 0; j < count; j += V::kKeys) {
    const int64_t slot = begin + j;
    const std::byte* key = block.keys + block.page_table[slot / kPageTokens] * block.page_bytes +
                           slot % kPageTokens * block.key_stride;
    int r = 0;
    for (; r + kRows <= block.rows; r += kRows) {
      ScoreTile<V, Cache, kRows>(block.q + r, key, block, &scores[r][j]);
    }
    for (; r < block.rows; ++r) ScoreTile<V, Cache, 1>(block.q + r, key, block, &scores[r][j]);
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

// How a split enters what the splits before it gave: out = out * old + sum * fresh.
struct Merge {
  bool first;
  float old_factor;
  float fresh_factor;
};

// Σ_j p[r][j] value[j] over one split, j in order, for kRows rows and kVecs vectors of
// values from dimension d on; `partial` > 0 is the number of dimensions of a last vector.
template <typename V, typename Cache, int kRows, int kVecs>
void ValueTile(const AttentionBlock& block, int row, int64_t begin, const int64_t* counts,
               const float (*p)[kAttentionSplit], int64_t d, int64_t partial, const Merge* merges) {
  V sum[kRows][kVecs];
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVecs; ++v) sum[r][v] = V::Zero();
  }
  int64_t common = counts[row];
  for (int r = 1; r < kRows; ++r) {
    if (counts[row + r] < common) common = counts[row + r];
  }
  if (common < 0) common = 0;  // a row whose last slot lies before this split
  const auto value_row = [&](int64_t j) {
    const int64_t slot = begin + j;
    return block.values + block.page_table[slot / kPageTokens] * block.page_bytes +
           slot % kPageTokens * block.value_stride;
  };
  const auto load = [&](const std::byte* value, int v) {
    return partial > 0 ? Cache::template LoadFirst<V>(value, d, partial)
                       : Cache::template Load<V>(value, d + v * 16);
  };
  for (int64_t j = 0; j < common; ++j) {
    const std::byte* value = value_row(j);
    V value_vec[kVecs];
    for (int v = 0; v < kVecs; ++v) value_vec[v] = load(value, v);
    for (int r = 0; r < kRows; ++r) {
      const V weight = V::Set(p[row + r][j]);
      for (int v = 0; v < kVecs; ++v) sum[r][v] = V::Fma(weight, value_vec[v], sum[r][v]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int64_t j = common; j < counts[row + r]; ++j) {
      const std::byte* value = value_row(j);
      const V weight = V::Set(p[row + r][j]);
      for (int v = 0; v < kVecs; ++v) sum[r][v] = V::Fma(weight, load(value, v), sum[r][v]);
    }
    if (counts[row + r] <= 0) continue;
    const Merge& merge = merges[row + r];
    for (int v = 0; v < kVecs; ++v) {
      float* out = block.out[row + r] + d + v * 16;
      V result = sum[r][v];
      if (!merge.first) {
        const V old = partial > 0 ? V::LoadFirst(out, partial) : V::Load(out);
        result = V::Fma(old, V::Set(merge.old_factor), V::Mul(result, V::Set(merge.fresh_factor)));
      }
      if (partial > 0) {
        result.StoreFirst(out, partial);
      } else {
        result.Store(out);
      }
    }
  }
}

template <typename V, typename Cache, int kRows>
void ValueRows(const AttentionBlock& block, int row, int64_t begin, const int64_t* counts,
               const float (*p)[kAttentionSplit], const Merge* merges) {
  int64_t d = 0;
  for (; d + V::kValueVecs * 16 <= block.value_dim; d += V::kValueVecs * 16) {
    ValueTile<V, Cache, kRows, V::kValueVecs>(block, row, begin, counts, p, d, 0, merges);
  }
  for (; d + 16 <= block.value_dim; d += 16) {
    ValueTile<V, Cache, kRows, 1>(block, row, begin, counts, p, d, 0, merges);
  }
  if (d < block.value_dim) {
    ValueTile<V, Cache, kRows, 1>(block, row, begin, counts, p, d, block.value_dim - d, merges);
  }
}

template <typename V, typename Cache>
void AttendBlock(const AttentionBlock& block) {
  alignas(64) float scores[kAttentionRows][kAttentionSplit];
  float max[kAttentionRows], sum[kAttentionRows];
  int64_t counts[kAttentionRows];
  Merge merges[kAttentionRows];
  int64_t longest = 0;
  for (int r = 0; r < block.rows; ++r) {
    if (block.visible[r] > longest) longest = block.visible[r];
  }
  for (int64_t begin = 0; begin < longest; begin += kAttentionSplit) {
    const int64_t split = longest - begin < kAttentionSplit ? longest - begin : kAttentionSplit;
    ScoreSplit<V, Cache>(block, begin, split, scores);
    for (int r = 0; r < block.rows; ++r) {
      const int64_t left = block.visible[r] - begin;
      counts[r] = left < split ? left : split;
      if (left <= 0) continue;
      float split_max, split_sum;
      SoftmaxRow<V>(scores[r], counts[r], &split_max, &split_sum);
      merges[r].first = begin == 0;
      if (begin == 0) {
        max[r] = split_max;
        sum[r] = split_sum;
        continue;
      }
      const float merged = split_max > max[r] ? split_max : max[r];
      float factors[16];
      float shifts[16] = {max[r] - merged, split_max - merged};
      Exp(V::Load(shifts)).Store(factors);
      merges[r].old_factor = factors[0];
      merges[r].fresh_factor = factors[1];
      sum[r] = __builtin_fmaf(sum[r], factors[0], split_sum * factors[1]);
      max[r] = merged;
    }
    int r = 0;
    for (; r + V::kValueRows <= block.rows; r += V::kValueRows) {
      ValueRows<V, Cache, V::kValueRows>(block, r, begin, counts, scores, merges);
    }
    for (; r < block.rows; ++r) {
      ValueRows<V, Cache, 1>(block, r, begin, counts, scores, merges);
    }
  }
  for (int r = 0; r < block.rows; ++r) {
    const V inverse = V::Set(1.0f / sum[r]);
    int64_t d = 0;
    for (; d + 16 <= block.value_dim; d += 16) {
      V::Mul(V::Load(block.out[r] + d), inverse).Store(block.out[r] + d);
    }
    if (d < block.value_dim) {
      const int64_t n = block.value_dim - d;
      V::Mul(V::LoadFirst(block.out[r] + d, n), inverse).StoreFirst(block.out[r] + d, n);
    }
  }
}

template <typename V>
void AttendRows(const AttentionBlock& block) {
  if (block.half) {
    AttendBlock<V, F16Cache>(block);
  } else {
    AttendBlock<V, F32Cache>(block);
  }
}

}  // namespace
}  // namespace qianyi::cpu
