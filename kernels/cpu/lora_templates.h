// The two small products of a low-rank addition for one token, over a Vec.
#pragma once

#include "kernels/cpu/row_templates.h"
#include "kernels/cpu/unroll.h"

namespace qianyi::cpu {
namespace {

// Lane i sums columns i, i + 16, … in order; then the tree over lanes. How many rows share the
// reads of x changes nothing.
template <typename V>
void LoraDown(const float* x, const float* a, int64_t cols, int64_t rank, float* down) {
  int64_t j = 0;
  for (; j + 4 <= rank; j += 4, a += 4 * cols) {
    V sum[4];
    Unroll<4>(QIANYI_EACH(r) { sum[r] = V::Zero(); });
    ForEachVec(
        cols,
        [&](int64_t k) {
          const V value = V::Load(x + k);
          Unroll<4>(QIANYI_EACH(r) { sum[r] = V::Fma(V::Load(a + r * cols + k), value, sum[r]); });
        },
        [&](int64_t k, int64_t n) {
          const V value = V::LoadFirst(x + k, n);
          Unroll<4>(QIANYI_EACH(r) {
            sum[r] = V::Fma(V::LoadFirst(a + r * cols + k, n), value, sum[r]);
          });
        });
    V::Sum4(sum[0], sum[1], sum[2], sum[3], down + j);
  }
  for (; j < rank; ++j, a += cols) {
    V sum = V::Zero();
    ForEachVec(
        cols, [&](int64_t k) { sum = V::Fma(V::Load(a + k), V::Load(x + k), sum); },
        [&](int64_t k, int64_t n) {
          sum = V::Fma(V::LoadFirst(a + k, n), V::LoadFirst(x + k, n), sum);
        });
    down[j] = sum.Sum();
  }
}

template <typename V>
void LoraUp(const float* down, const float* b, int64_t stride, int64_t rank, float scale,
            int64_t rows, float* out) {
  const V scales = V::Set(scale);
  ForEachVec(
      rows,
      [&](int64_t i) {
        V sum = V::Zero();
        for (int64_t j = 0; j < rank; ++j) {
          sum = V::Fma(V::Set(down[j]), V::Load(b + j * stride + i), sum);
        }
        V::Fma(scales, sum, V::Load(out + i)).Store(out + i);
      },
      [&](int64_t i, int64_t n) {
        V sum = V::Zero();
        for (int64_t j = 0; j < rank; ++j) {
          sum = V::Fma(V::Set(down[j]), V::LoadFirst(b + j * stride + i, n), sum);
        }
        V::Fma(scales, sum, V::LoadFirst(out + i, n)).StoreFirst(out + i, n);
      });
}

}  // namespace
}  // namespace qianyi::cpu
