// Attention of a block of query rows over the paged cache, over a Vec. The order of every
// sum is in docs/numerics.md; how many rows and keys share registers changes nothing.
#pragma once

#include "kernels/cpu/attention_scores.h"
#include "kernels/cpu/row_kernels.h"
#include "kernels/cpu/unroll.h"
#include "kernels/cpu/vec_math.h"

namespace qianyi::cpu {
namespace {

// How a split enters what the splits before it gave: out = out * old + sum * fresh.
struct Merge {
  bool first;
  float old_factor;
  float fresh_factor;
};

// The last vector of a row may be partial: kPartial, and `left` dimensions of it count.
template <typename V, typename Cache, bool kPartial>
V LoadValue(const std::byte* row, int64_t d, int64_t left) {
  if constexpr (kPartial) return Cache::template LoadFirst<V>(row, d, left);
  return Cache::template Load<V>(row, d);
}

template <typename V, bool kPartial>
void MergeValue(const Merge& merge, V fresh, float* out, int64_t left) {
  if (!merge.first) {
    const V old = kPartial ? V::LoadFirst(out, left) : V::Load(out);
    fresh = V::Fma(old, V::Set(merge.old_factor), V::Mul(fresh, V::Set(merge.fresh_factor)));
  }
  if constexpr (kPartial) {
    fresh.StoreFirst(out, left);
  } else {
    fresh.Store(out);
  }
}

// Σ_j p[r][j] value[j] over one split, j in order, for kRows rows from `row` on and kVecs
// vectors of values from dimension d on.
template <typename V, typename Cache, int kRows, int kVecs, bool kPartial>
void ValueTile(const AttentionBlock& block, int row, int64_t begin, const int64_t* counts,
               const float (*p)[kAttentionSplit], int64_t d, const Merge* merges) {
  const int64_t left = block.value_dim - d;
  V sum[kRows * kVecs];
  Unroll<kRows * kVecs>(QIANYI_EACH(i) { sum[i] = V::Zero(); });
  int64_t common = counts[row];
  for (int r = 1; r < kRows; ++r) {
    if (counts[row + r] < common) common = counts[row + r];
  }
  const auto value_row = [&](int64_t j) {
    return SlotOf(block, block.values, block.value_stride, begin + j);
  };
  for (int64_t j = 0; j < common; ++j) {
    const std::byte* value = value_row(j);
    V values[kVecs];
    Unroll<kVecs>(
        QIANYI_EACH(v) { values[v] = LoadValue<V, Cache, kPartial>(value, d + v * 16, left); });
    Unroll<kRows>(QIANYI_EACH(r) {
      const V weight = V::Set(p[row + r][j]);
      Unroll<kVecs>(
          QIANYI_EACH(v) { sum[r * kVecs + v] = V::Fma(weight, values[v], sum[r * kVecs + v]); });
    });
  }
  Unroll<kRows>(QIANYI_EACH(r) {
    const int64_t count = counts[row + r];
    for (int64_t j = common; j < count; ++j) {
      const std::byte* value = value_row(j);
      const V weight = V::Set(p[row + r][j]);
      Unroll<kVecs>(QIANYI_EACH(v) {
        const V one = LoadValue<V, Cache, kPartial>(value, d + v * 16, left);
        sum[r * kVecs + v] = V::Fma(weight, one, sum[r * kVecs + v]);
      });
    }
    if (count > 0) {
      Unroll<kVecs>(QIANYI_EACH(v) {
        MergeValue<V, kPartial>(merges[row + r], sum[r * kVecs + v],
                                block.out[row + r] + d + v * 16, left);
      });
    }
  });
}

template <typename V, typename Cache, int kRows>
void ValueRows(const AttentionBlock& block, int row, int64_t begin, const int64_t* counts,
               const float (*p)[kAttentionSplit], const Merge* merges) {
  constexpr int64_t kWide = V::kValueVecs * 16;
  int64_t d = 0;
  for (; d + kWide <= block.value_dim; d += kWide) {
    ValueTile<V, Cache, kRows, V::kValueVecs, false>(block, row, begin, counts, p, d, merges);
  }
  for (; d + 16 <= block.value_dim; d += 16) {
    ValueTile<V, Cache, kRows, 1, false>(block, row, begin, counts, p, d, merges);
  }
  if (d < block.value_dim) {
    ValueTile<V, Cache, kRows, 1, true>(block, row, begin, counts, p, d, merges);
  }
}

// sum[d] = fma(p[k], value[k][d], sum[d]) for kSlots slots of one row, in order; from
// zero where `first`.
template <typename V, typename Cache, int kSlots>
void AddSlots(const std::byte* const* values, int64_t offset, const float* p, int64_t dims,
              bool first, float* sum) {
  V weight[kSlots];
  Unroll<kSlots>(QIANYI_EACH(k) { weight[k] = V::Set(p[k]); });
  int64_t d = 0;
  for (; d + 16 <= dims; d += 16) {
    V total = first ? V::Zero() : V::Load(sum + d);
    Unroll<kSlots>(QIANYI_EACH(k) {
      total = V::Fma(weight[k], Cache::template Load<V>(values[k] + offset, d), total);
    });
    total.Store(sum + d);
  }
  if (d < dims) {
    const int64_t n = dims - d;
    V total = first ? V::Zero() : V::LoadFirst(sum + d, n);
    Unroll<kSlots>(QIANYI_EACH(k) {
      const V value = Cache::template LoadFirst<V>(values[k] + offset, d, n);
      total = V::Fma(weight[k], value, total);
    });
    total.StoreFirst(sum + d, n);
  }
}

// The values of several kv heads: slot by slot, so that memory is read in long runs. The
// sums of a split live in scratch meanwhile.
template <typename V, typename Cache>
void ValuesOfManyHeads(const AttentionBlock& block, int64_t begin, int64_t split,
                       const int64_t* counts, const float (*p)[kAttentionSplit],
                       const Merge* merges) {
  const int head_rows = block.rows / block.kv_heads;
  const int64_t dims = block.value_dim, head_bytes = dims * block.element_bytes;
  for (int64_t j = 0; j < split; j += 4) {
    const std::byte* values[4];
    for (int k = 0; k < 4; ++k) {  // a page is whole: all four exist
      values[k] = SlotOf(block, block.values, block.value_stride, begin + j + k);
    }
    for (int r = 0; r < block.rows; ++r) {
      const int64_t offset = r / head_rows * head_bytes;
      float* sum = block.scratch + r * dims;
      if (counts[r] >= j + 4) {
        AddSlots<V, Cache, 4>(values, offset, &p[r][j], dims, j == 0, sum);
        continue;
      }
      for (int64_t k = j; k < counts[r]; ++k) {
        AddSlots<V, Cache, 1>(values + (k - j), offset, &p[r][k], dims, k == 0, sum);
      }
    }
  }
  for (int r = 0; r < block.rows; ++r) {
    if (counts[r] == 0) continue;
    const float* sum = block.scratch + r * dims;
    int64_t d = 0;
    for (; d + 16 <= dims; d += 16) {
      MergeValue<V, false>(merges[r], V::Load(sum + d), block.out[r] + d, 16);
    }
    if (d < dims) {
      const int64_t n = dims - d;
      MergeValue<V, true>(merges[r], V::LoadFirst(sum + d, n), block.out[r] + d, n);
    }
  }
}

template <typename V, typename Cache>
void ValuesOfSplit(const AttentionBlock& block, int64_t begin, int64_t split, const int64_t* counts,
                   const float (*p)[kAttentionSplit], const Merge* merges) {
  if (block.kv_heads > 1) {
    return ValuesOfManyHeads<V, Cache>(block, begin, split, counts, p, merges);
  }
  int r = 0;
  for (; r + V::kValueRows <= block.rows; r += V::kValueRows) {
    ValueRows<V, Cache, V::kValueRows>(block, r, begin, counts, p, merges);
  }
  for (; r < block.rows; ++r) ValueRows<V, Cache, 1>(block, r, begin, counts, p, merges);
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
    if constexpr (Cache::kScaled) {
      MultiplyByScales<V>(block, block.key_scales, begin, split, scores);
    }
    for (int r = 0; r < block.rows; ++r) {
      const int64_t left = block.visible[r] - begin;
      // A row whose last slot lies before this split has none in it, not fewer.
      counts[r] = left < 0 ? 0 : left < split ? left : split;
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
    if constexpr (Cache::kScaled) {
      MultiplyByScales<V>(block, block.value_scales, begin, split, scores);
    }
    ValuesOfSplit<V, Cache>(block, begin, split, counts, scores, merges);
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
  if (block.dtype == DType::kF32) {
    AttendBlock<V, F32Cache>(block);
  } else if (block.dtype == DType::kI8) {
    AttendBlock<V, I8Cache>(block);
  } else if (block.dtype == DType::kBF16) {
    AttendBlock<V, BF16Cache>(block);
  } else {
    AttendBlock<V, F16Cache>(block);
  }
}

}  // namespace
}  // namespace qianyi::cpu
