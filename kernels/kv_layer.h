// The layout of the key-value cache.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/tensor.h"

namespace qianyi {

// One layer of the paged key-value cache. A page holds kPageTokens tokens:
// K [kPageTokens][key_cols] then V [kPageTokens][value_cols], dtype f32, f16, bf16 or i8. After
// those of i8 come floats, [kPageTokens][kv_heads] for K, then for V: an element is its integer
// times the scale of its slot and head, which is the largest magnitude there over 127. Values in
// keys share a scale.
inline constexpr int kPageTokens = 16;
struct KvLayer {
  std::byte* pages = nullptr;  // page p starts at pages + p * page_bytes
  size_t page_bytes = 0;
  DType dtype = DType::kF32;
  int64_t kv_heads = 0;
  int64_t key_dim = 0;    // per head
  int64_t value_dim = 0;  // per head
  // Nothing is stored twice: the value is the first value_dim elements of the key, and a page has
  // no V (latent attention). With one kv head only.
  bool values_in_keys = false;

  int64_t key_cols() const { return kv_heads * key_dim; }
  int64_t value_cols() const { return values_in_keys ? 0 : kv_heads * value_dim; }  // of V
  size_t element_bytes() const { return dtype == DType::kF32 ? 4 : dtype == DType::kI8 ? 1 : 2; }
  // What a page must have at least.
  size_t used_page_bytes() const {
    const int64_t scales = dtype != DType::kI8 ? 0 : values_in_keys ? kv_heads : 2 * kv_heads;
    return kPageTokens * ((key_cols() + value_cols()) * element_bytes() + scales * sizeof(float));
  }
  // Of i8: the scales of slot 0 of page 0, kv_heads from one slot to the next.
  float* key_scales() const {
    return reinterpret_cast<float*>(pages + kPageTokens * (key_cols() + value_cols()));
  }
  float* value_scales() const {
    return key_scales() + (values_in_keys ? 0 : kPageTokens * kv_heads);
  }

  friend bool operator==(const KvLayer&, const KvLayer&) = default;
};

}  // namespace qianyi
