// Arguments of the kernel for attention over chosen slots.
#pragma once

#include <cstdint>

#include "kernels/kv_layer.h"
#include "kernels/tensor.h"

namespace qianyi {

// Softmax attention of each token over a list of slots of its sequence: pivots first, then a
// window (CogView, Ding et al. 2021, arXiv:2105.13290, section 4.1). A pivot stands for several
// keys that were left out, hence the bias on its score. One softmax over all of a list.
inline constexpr int64_t kMaxSparseSlots = 1 << 17;
struct SparseAttention {
  Tensor q;                     // [tokens, heads * key_dim]
  const int32_t* const* pages;  // [tokens]: page table of the token's sequence
  const int32_t* slots;         // the lists, one after the other
  const int64_t* offsets;       // [tokens + 1]: where each begins; 1..kMaxSparseSlots slots each
  const int32_t* pivots;        // [tokens]: how many lead the list
  float pivot_bias = 0.0f;      // added to a pivot's score
  int64_t heads = 0;
  float scale = 1.0f;  // scores = scale * q·k
  KvLayer layer;
  Tensor out;  // [tokens, heads * value_dim]

  friend bool operator==(const SparseAttention&, const SparseAttention&) = default;
};

}  // namespace qianyi
