// Exponential, error function and activations over a Vec: fixed operations in a fixed
// order, hence the same bits on every instruction set. Coefficients are least-maximum
// fits made for these ranges; errors in docs/numerics.md, checked in vec_math_test.cc.
#pragma once

#include "kernels/backend.h"

namespace qianyi::cpu {
namespace {

// Relative error below 2e-7. 0 below -87.33 (no denormals), exp(88) above 88.
template <typename V>
V Exp(V x) {
  const V low = V::Set(-87.33f);
  const V magic = V::Set(0x1.8p23f);  // adding it rounds to a whole number
  const V clamped = V::Max(low, V::Min(V::Set(88.0f), x));
  const V shifted = V::Fma(clamped, V::Set(0x1.715476p+0f), magic);  // 1 / ln 2
  const V n = V::Sub(shifted, magic);
  V r = V::Fma(n, V::Set(-0x1.62e4p-1f), clamped);  // ln 2 in two parts
  r = V::Fma(n, V::Set(-1.4286068e-06f), r);
  V p = V::Set(0x1.6a234ep-10f);
  p = V::Fma(p, r, V::Set(0x1.123a6cp-7f));
  p = V::Fma(p, r, V::Set(0x1.5558f4p-5f));
  p = V::Fma(p, r, V::Set(0x1.55549p-3f));
  p = V::Fma(p, r, V::Set(0x1.fffffcp-2f));
  const V e = V::Add(V::Fma(V::Mul(r, r), p, r), V::Set(1.0f));
  return V::IfLess(x, low, V::Zero(), V::Mul(e, V::PowerOfTwo(shifted)));
}

// Absolute error below 2e-7.
template <typename V>
V Erf(V x) {
  const V a = V::Abs(x);
  const V s = V::Mul(a, a);
  V p = V::Set(0x1.4ae4c6p-14f);
  p = V::Fma(p, s, V::Set(-0x1.a485e8p-11f));
  p = V::Fma(p, s, V::Set(0x1.5419f4p-8f));
  p = V::Fma(p, s, V::Set(-0x1.b7fbb4p-6f));
  p = V::Fma(p, s, V::Set(0x1.ce2d2p-4f));
  p = V::Fma(p, s, V::Set(-0x1.81273ep-2f));
  p = V::Fma(p, s, V::Set(0x1.20dd74p+0f));
  const V small = V::Mul(p, a);
  // 1 - exp(log erfc); from 4 on the result is 1.
  const V b = V::Min(V::Set(4.0f), a);
  V q = V::Set(0x1.8a34fep-13f);
  q = V::Fma(q, b, V::Set(-0x1.847fdp-9f));
  q = V::Fma(q, b, V::Set(0x1.66ea8ep-6f));
  q = V::Fma(q, b, V::Set(-0x1.a6f00cp-4f));
  q = V::Fma(q, b, V::Set(-0x1.46a356p-1f));
  q = V::Fma(q, b, V::Set(-0x1.209054p+0f));
  q = V::Fma(q, b, V::Set(-0x1.47a346p-12f));
  const V large = V::Sub(V::Set(1.0f), Exp(q));
  return V::CopySign(V::IfLess(a, V::Set(1.0f), small, large), x);
}

// x / (1 + exp(-x)).
template <typename V>
V Silu(V x) {
  return V::Div(x, V::Add(V::Set(1.0f), Exp(V::Sub(V::Zero(), x))));
}

// x/2 (1 + tanh(√(2/π) (x + 0.044715 x³))), written as x / (1 + exp(-2 …)).
template <typename V>
V GeluTanh(V x) {
  const V w = V::Fma(V::Mul(x, x), V::Set(0.0713548163f), V::Set(1.5957691216f));
  const V y = V::Mul(x, w);
  return V::Div(x, V::Add(V::Set(1.0f), Exp(V::Sub(V::Zero(), y))));
}

// x/2 (1 + erf(x / √2)).
template <typename V>
V GeluErf(V x) {
  const V half = V::Mul(V::Set(0.5f), x);
  return V::Fma(half, Erf(V::Mul(x, V::Set(0.70710678118f))), half);
}

template <typename V>
V Activated(Activation kind, V x) {
  switch (kind) {
    case Activation::kGeluTanh:
      return GeluTanh(x);
    case Activation::kGeluErf:
      return GeluErf(x);
    case Activation::kSilu:
      return Silu(x);
    case Activation::kRelu:
      return V::IfLess(x, V::Zero(), V::Zero(), x);
  }
  return x;
}

}  // namespace
}  // namespace qianyi::cpu
