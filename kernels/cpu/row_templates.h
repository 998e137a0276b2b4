// Norms, rotations, activations and conversions of one row, over a Vec.
#pragma once

#include "kernels/cpu/vec_math.h"

namespace qianyi::cpu {
namespace {

// Calls full(i) for whole vectors of 16 and tail(i, n) for what is left of `count`.
template <typename Full, typename Tail>
void ForEachVec(int64_t count, Full full, Tail tail) {
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) full(i);
  if (i < count) tail(i, count - i);
}

template <typename V>
float SumOf(const float* x, int64_t n) {
  V sum = V::Zero();
  ForEachVec(
      n, [&](int64_t i) { sum = V::Add(sum, V::Load(x + i)); },
      [&](int64_t i, int64_t left) { sum = V::Add(sum, V::LoadFirst(x + i, left)); });
  return sum.Sum();
}

template <typename V>
void LayerNormRow(const float* x, const float* weight, const float* bias, float epsilon,
                  int64_t cols, float* out) {
  const float mean = SumOf<V>(x, cols) / static_cast<float>(cols);
  const V mean_vec = V::Set(mean);
  V squares = V::Zero();
  ForEachVec(
      cols,
      [&](int64_t i) {
        const V d = V::Sub(V::Load(x + i), mean_vec);
        squares = V::Fma(d, d, squares);
      },
      [&](int64_t i, int64_t n) {
        const V d = V::KeepFirst(V::Sub(V::LoadFirst(x + i, n), mean_vec), n);
        squares = V::Fma(d, d, squares);
      });
  const float variance = squares.Sum() / static_cast<float>(cols);
  const V inverse = V::Set(1.0f / __builtin_sqrtf(variance + epsilon));
  ForEachVec(
      cols,
      [&](int64_t i) {
        const V d = V::Mul(V::Sub(V::Load(x + i), mean_vec), inverse);
        V::Fma(d, V::Load(weight + i), V::Load(bias + i)).Store(out + i);
      },
      [&](int64_t i, int64_t n) {
        const V d = V::Mul(V::Sub(V::LoadFirst(x + i, n), mean_vec), inverse);
        V::Fma(d, V::LoadFirst(weight + i, n), V::LoadFirst(bias + i, n)).StoreFirst(out + i, n);
      });
}

template <typename V>
float MaxAbs(const float* x, int64_t cols) {
  V most = V::Zero();
  ForEachVec(
      cols, [&](int64_t i) { most = V::Max(most, V::Abs(V::Load(x + i))); },
      [&](int64_t i, int64_t n) { most = V::Max(most, V::Abs(V::LoadFirst(x + i, n))); });
  return most.MaxLane();
}

template <typename V>
void RmsNormRow(const float* x, const float* weight, float epsilon, int64_t cols, float* out) {
  V squares = V::Zero();
  ForEachVec(
      cols,
      [&](int64_t i) {
        const V v = V::Load(x + i);
        squares = V::Fma(v, v, squares);
      },
      [&](int64_t i, int64_t n) {
        const V v = V::LoadFirst(x + i, n);
        squares = V::Fma(v, v, squares);
      });
  const float mean = squares.Sum() / static_cast<float>(cols);
  const V inverse = V::Set(1.0f / __builtin_sqrtf(mean + epsilon));
  ForEachVec(
      cols,
      [&](int64_t i) {
        V::Mul(V::Mul(V::Load(x + i), inverse), V::Load(weight + i)).Store(out + i);
      },
      [&](int64_t i, int64_t n) {
        V::Mul(V::Mul(V::LoadFirst(x + i, n), inverse), V::LoadFirst(weight + i, n))
            .StoreFirst(out + i, n);
      });
}

// A template so that each instruction set has its own copy.
template <typename V>
void RopeHead(float* x, const float* cos_sin, int64_t rotary_dims, RopePairs pairs) {
  const int64_t count = rotary_dims / 2;
  const bool interleaved = pairs == RopePairs::kInterleaved;
  const int64_t step = interleaved ? 2 : 1;
  const int64_t apart = interleaved ? 1 : count;
  for (int64_t i = 0; i < count; ++i) {
    const float a = x[i * step], b = x[i * step + apart];
    const float c = cos_sin[2 * i], s = cos_sin[2 * i + 1];
    x[i * step] = __builtin_fmaf(a, c, -(b * s));
    x[i * step + apart] = __builtin_fmaf(b, c, a * s);
  }
}

template <typename V>
void ActivateRow(Activation kind, const float* x, int64_t n, float* out) {
  ForEachVec(
      n, [&](int64_t i) { Activated(kind, V::Load(x + i)).Store(out + i); },
      [&](int64_t i, int64_t left) {
        Activated(kind, V::LoadFirst(x + i, left)).StoreFirst(out + i, left);
      });
}

template <typename V>
void GatedActivateRow(Activation kind, const float* gate, const float* value, int64_t n,
                      float* out) {
  ForEachVec(
      n,
      [&](int64_t i) {
        V::Mul(Activated(kind, V::Load(gate + i)), V::Load(value + i)).Store(out + i);
      },
      [&](int64_t i, int64_t left) {
        V::Mul(Activated(kind, V::LoadFirst(gate + i, left)), V::LoadFirst(value + i, left))
            .StoreFirst(out + i, left);
      });
}

template <typename V>
void AddRow(const float* row, int64_t n, float* x) {
  ForEachVec(
      n, [&](int64_t i) { V::Add(V::Load(x + i), V::Load(row + i)).Store(x + i); },
      [&](int64_t i, int64_t left) {
        V::Add(V::LoadFirst(x + i, left), V::LoadFirst(row + i, left)).StoreFirst(x + i, left);
      });
}

}  // namespace
}  // namespace qianyi::cpu
