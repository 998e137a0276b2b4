// Arguments of the kernel for low-rank additions to a linear layer.
#pragma once

#include <cstdint>

#include "kernels/tensor.h"

namespace qianyi {

// A low-rank addition to some rows of a matrix W (Hu et al. 2021, arXiv:2106.09685).
struct LoraWeights {
  const float* a = nullptr;  // [rank, x.cols]
  const float* b = nullptr;  // [rank, rows]: B transposed
  int64_t rank = 0;
  float scale = 0;
  int64_t row_begin = 0;  // of W: the columns of `out` that it adds to
  int64_t rows = 0;
};
struct LoraItem {
  LoraWeights weights;
  const int32_t* tokens = nullptr;  // [count], the rows of x and out it is for
  int64_t count = 0;
  float* down = nullptr;  // [count, rank], scratch
};
// out[t, row_begin + i] += scale * Σ_j B[i, j] Σ_k A[j, k] x[t, k] for the tokens of each item.
// No two items name the same element of `out`. Reduction order: docs/numerics.md.
struct Lora {
  Tensor x;  // [tokens, cols]
  const LoraItem* items = nullptr;
  int64_t count = 0;
  Tensor out;  // [tokens, rows of W]

  friend bool operator==(const Lora&, const Lora&) = default;
};

}  // namespace qianyi
