// Scores of experts and the weighted sum of their outputs for one token, over a Vec.
#pragma once

#include "kernels/cpu/row_templates.h"

namespace qianyi::cpu {
namespace {

template <typename V>
void SigmoidRow(const float* x, int64_t n, float* out) {
  const auto sigmoid = [](V v) {
    return V::Div(V::Set(1.0f), V::Add(V::Set(1.0f), Exp(V::Sub(V::Zero(), v))));
  };
  ForEachVec(
      n, [&](int64_t i) { sigmoid(V::Load(x + i)).Store(out + i); },
      [&](int64_t i, int64_t left) {
        sigmoid(V::LoadFirst(x + i, left)).StoreFirst(out + i, left);
      });
}

// The largest is found element by element: it has no order to keep.
template <typename V>
void SoftmaxRow(const float* x, int64_t n, float* out) {
  float most = x[0];
  for (int64_t i = 1; i < n; ++i) most = most > x[i] ? most : x[i];
  const V shift = V::Set(most);
  V sum = V::Zero();
  ForEachVec(
      n,
      [&](int64_t i) {
        const V e = Exp(V::Sub(V::Load(x + i), shift));
        sum = V::Add(sum, e);
        e.Store(out + i);
      },
      [&](int64_t i, int64_t left) {
        const V e = V::KeepFirst(Exp(V::Sub(V::LoadFirst(x + i, left), shift)), left);
        sum = V::Add(sum, e);
        e.StoreFirst(out + i, left);
      });
  const V total = V::Set(sum.Sum());
  ForEachVec(
      n, [&](int64_t i) { V::Div(V::Load(out + i), total).Store(out + i); },
      [&](int64_t i, int64_t left) {
        V::Div(V::LoadFirst(out + i, left), total).StoreFirst(out + i, left);
      });
}

template <typename V>
void CombineRow(const float* rows, int64_t stride, const int32_t* ids, const float* weights,
                int64_t count, int64_t n, float* out) {
  ForEachVec(
      n,
      [&](int64_t i) {
        V sum = V::Zero();
        for (int64_t j = 0; j < count; ++j) {
          if (ids[j] < 0) continue;
          sum = V::Fma(V::Set(weights[j]), V::Load(rows + ids[j] * stride + i), sum);
        }
        V::Add(V::Load(out + i), sum).Store(out + i);
      },
      [&](int64_t i, int64_t left) {
        V sum = V::Zero();
        for (int64_t j = 0; j < count; ++j) {
          if (ids[j] < 0) continue;
          sum = V::Fma(V::Set(weights[j]), V::LoadFirst(rows + ids[j] * stride + i, left), sum);
        }
        V::Add(V::LoadFirst(out + i, left), sum).StoreFirst(out + i, left);
      });
}

}  // namespace
}  // namespace qianyi::cpu
