// Arguments of the kernels of kernels/backend.h; those of some groups have headers of their own.
// All activations are f32; shapes stand beside each field.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/convolution.h"
#include "kernels/experts.h"
#include "kernels/kv_layer.h"
#include "kernels/lora.h"
#include "kernels/packed.h"
#include "kernels/sampling.h"
#include "kernels/sparse_attention.h"
#include "kernels/tensor.h"

namespace qianyi {

// Activations as int8 in slices of kSliceCols columns, one scale per token and slice.
// padded_cols = cols rounded up to 64; padding is zero. No ownership.
inline constexpr int kSliceCols = 512;
struct QuantizedRows {
  int8_t* values = nullptr;  // [rows, padded_cols], 64-byte aligned
  float* scales = nullptr;   // [rows, ceil(cols / kSliceCols)]
  int32_t* sums = nullptr;   // [rows, padded_cols / 32], sum of each 32 values
  int64_t rows = 0;
  int64_t cols = 0;

  int64_t padded_cols() const { return (cols + kTileCols - 1) / kTileCols * kTileCols; }
  int64_t slices() const { return (cols + kSliceCols - 1) / kSliceCols; }

  friend bool operator==(const QuantizedRows&, const QuantizedRows&) = default;
};

struct Quantize {
  Tensor x;  // [tokens, cols]
  QuantizedRows out;

  friend bool operator==(const Quantize&, const Quantize&) = default;
};

// out[t, r] = residual_scale * residual[t, r] + (Σ_k x[t, k] W[r, k] + bias[r]).
// Reduction order: docs/numerics.md. `out` may be the same memory as `residual`.
struct Linear {
  Tensor x;                     // [tokens, cols]; used when weight.format is f32, f16, bf16
  QuantizedRows quantized;      // the same, quantized; used when it is int8 or int4
  PackedRows weight;            // [rows, cols]
  const float* bias = nullptr;  // [rows] or null
  Tensor residual;              // [tokens, rows], or data == null
  float residual_scale = 1.0f;
  Tensor out;  // [tokens, rows]

  friend bool operator==(const Linear&, const Linear&) = default;
};

// Row r of `out` is x[x_rows[r], :] Wᵀ with W of the expert whose tile has r. Reduction order: that
// of Linear.
struct ExpertLinear {
  Tensor x = {};                    // [n, cols]; used when the format is f32, f16, bf16
  QuantizedRows quantized = {};     // the same, quantized; used when it is int8 or int4
  const int32_t* x_rows = nullptr;  // [out.rows], or null: row r
  const ExpertTile* tiles = nullptr;
  int64_t tile_rows = 8;
  int64_t experts = 0;
  const std::byte* const* weights = nullptr;  // of expert e at [e * stride]: packed [rows, cols]
  int64_t stride = 1;
  PackedFormat format = {};
  int64_t rows = 0;
  int64_t cols = 0;
  Tensor out = {};  // [choices, rows]

  friend bool operator==(const ExpertLinear&, const ExpertLinear&) = default;
};

// out[targets[i], :] = row source_rows[i] of the block.
struct Gather {
  PackedRows table;            // a row block of an embedding
  const int32_t* source_rows;  // [count], relative to the block
  const int32_t* targets;      // [count]
  int64_t count = 0;
  Tensor out;  // [tokens, cols]

  friend bool operator==(const Gather&, const Gather&) = default;
};

// x[t, :] += table[ids[t], :]. Negative ids add nothing.
struct AddRows {
  Tensor table;        // [n, cols], f32
  const int32_t* ids;  // [tokens], or null: row t
  Tensor x;            // [tokens, cols]

  friend bool operator==(const AddRows&, const AddRows&) = default;
};

// out[i, :] = x[ids[i], :].
struct CopyRows {
  Tensor x;
  const int32_t* ids;  // [out.rows], or null: row i
  Tensor out;

  friend bool operator==(const CopyRows&, const CopyRows&) = default;
};

// out = (x - mean) / sqrt(variance + epsilon) * weight + bias. out may be x.
struct LayerNorm {
  Tensor x;             // [tokens, cols]
  const float* weight;  // [cols]
  const float* bias;    // [cols]
  float epsilon;
  Tensor out;
  // Above 0: of x / (max|x| / max_scale), the maximum of each row (CogView's Sandwich-LN).
  float max_scale = 0.0f;

  friend bool operator==(const LayerNorm&, const LayerNorm&) = default;
};

// out = x / sqrt(mean(x²) + epsilon) * weight. out may be x.
struct RmsNorm {
  Tensor x;
  const float* weight;  // [cols]
  float epsilon;
  Tensor out;

  friend bool operator==(const RmsNorm&, const RmsNorm&) = default;
};

// Rotates pairs in place: (a, b) -> (a cos - b sin, b cos + a sin).
enum class RopePairs : uint8_t { kInterleaved, kHalfSplit };
struct Rope {
  Tensor x;              // [tokens, heads * head_dim]
  const float* cos_sin;  // [tokens, rotary_dims]: cos, sin of pair 0, of pair 1, …
  int64_t heads;
  int64_t head_dim;
  int64_t rotary_begin;  // first rotated dimension of each head
  int64_t rotary_dims;   // how many are rotated (even); pairs lie within them
  RopePairs pairs;

  friend bool operator==(const Rope&, const Rope&) = default;
};

enum class Activation : uint8_t { kGeluTanh, kGeluErf, kSilu, kRelu };
struct Activate {
  Activation kind;
  Tensor x;    // [tokens, n]
  Tensor out;  // [tokens, n]; may be x

  friend bool operator==(const Activate&, const Activate&) = default;
};
// out = f(gate) * value.
struct GatedActivate {
  Activation kind;
  Tensor gate;   // [tokens, n]
  Tensor value;  // [tokens, n]
  Tensor out;    // [tokens, n]; may be gate or value

  friend bool operator==(const GatedActivate&, const GatedActivate&) = default;
};

// Stores the keys and values of each token at its slot (page * kPageTokens + offset).
struct KvWrite {
  Tensor k;              // [tokens, kv_heads * key_dim]
  Tensor v;              // [tokens, kv_heads * value_dim]; unused where values are in the keys
  const int64_t* slots;  // [tokens]
  KvLayer layer;

  friend bool operator==(const KvWrite&, const KvWrite&) = default;
};

// Softmax attention of each token over the first visible[t] slots of its sequence.
// Keys are worked through in fixed splits of kAttentionSplit, merged in order
// (online softmax, Milakov & Gimelshein 2018, arXiv:1805.02867).
inline constexpr int kAttentionSplit = 256;
struct Attention {
  Tensor q;                     // [tokens, heads * key_dim]
  const int32_t* const* pages;  // [tokens]: page table of the token's sequence
  const int32_t* visible;       // [tokens]: number of visible slots, >= 1
  int64_t heads = 0;
  float scale = 1.0f;  // scores = scale * q·k
  KvLayer layer;
  Tensor out;           // [tokens, heads * value_dim]
  int64_t longest = 0;  // no less than any of `visible`, where known; changes no result

  friend bool operator==(const Attention&, const Attention&) = default;
};

}  // namespace qianyi
