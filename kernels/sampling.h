// Arguments of the kernel that draws tokens where the logits are.
#pragma once

#include <cstdint>

#include "kernels/tensor.h"

namespace qianyi {

// How one token is drawn from a row of logits: what runtime/sampler.h says of these parameters.
struct TokenDraw {
  float temperature = 1.0f;  // 0: the largest logit; of equals the first
  float top_p = 1.0f;
  float min_p = 0.0f;
  int32_t top_k = 0;     // 0 = all
  double uniform = 0.0;  // the random number, in [0, 1)
};

struct DrawTokens {
  Tensor logits;                     // [n, vocabulary], f32
  const int32_t* rows = nullptr;     // [count], of logits
  const TokenDraw* draws = nullptr;  // [count]
  int64_t count = 0;
  int32_t* tokens = nullptr;  // [count]; 0 when no logit is above -infinity
};

}  // namespace qianyi
