// What one instruction set provides: kernels over raw rows, without threads. The files
// that drive them (linear.cc, attention.cc, …) cut the work and are compiled once.
//
// This header is included by files compiled for an instruction set. Nothing in it, and
// nothing those files include, may define an inline function that the linker could pick
// for code that runs before the processor granted that instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/backend.h"

namespace qianyi::cpu {

// What each worker has to itself.
inline constexpr size_t kScratchBytes = size_t{1} << 20;

// Query rows (token and head) of one sequence with `kv_heads` neighbouring kv heads. Row r
// belongs to the (r / (rows / kv_heads))-th of them.
inline constexpr int kAttentionRows = 32;
struct AttentionBlock {
  const float* q[kAttentionRows];   // [key_dim]
  float* out[kAttentionRows];       // [value_dim]
  int32_t visible[kAttentionRows];  // slots
  int rows;                         // <= kAttentionRows
  int kv_heads;
  const int32_t* page_table;
  const std::byte* keys;  // of slot 0 of page 0 for the first kv head
  const std::byte* values;
  size_t page_bytes;
  int64_t key_stride;  // bytes from one slot to the next
  int64_t value_stride;
  DType dtype;  // of keys and values: f32, f16 or i8
  int64_t element_bytes;
  const float* key_scales;  // of i8: of slot 0 of page 0 for the first kv head
  const float* value_scales;
  int64_t scale_stride;  // floats from one slot to the next
  int64_t key_dim;
  int64_t value_dim;
  float scale;
  float* scratch;  // [rows, value_dim] within kScratchBytes; used where kv_heads > 1
};

// One head of one token over a list of slots.
struct SparseHead {
  const float* q;        // [key_dim]
  const int32_t* slots;  // [count]
  int64_t count;
  int64_t pivots;
  float pivot_bias;
  const int32_t* page_table;
  const std::byte* keys;  // of slot 0 of page 0 for this head
  const std::byte* values;
  size_t page_bytes;
  int64_t key_stride;  // bytes from one slot to the next
  int64_t value_stride;
  DType dtype;
  const float* key_scales;  // as in AttentionBlock, for this head
  const float* value_scales;
  int64_t scale_stride;
  int64_t key_dim;
  int64_t value_dim;
  float scale;
  float* scores;  // [count], scratch
  float* out;     // [value_dim]
};

// Some panels of a weight for all tokens; fields as in Linear.
struct LinearBlock {
  const float* x;        // [tokens, cols] or null
  int64_t x_stride;      // elements
  const int8_t* values;  // [tokens, padded_cols] or null
  const float* scales;   // [tokens, slices]
  const int32_t* sums;   // [tokens, padded_cols / 32]
  int64_t padded_cols;
  int64_t slices;
  const std::byte* panels;  // the first panel
  size_t panel_bytes;
  size_t tile_offset;  // inside a panel
  DType dtype;
  int group;
  int64_t rows;  // of these panels; the last panel may hold fewer than 16
  int64_t cols;
  int64_t tokens;
  const float* bias;      // [rows] or null
  const float* residual;  // [tokens, rows] or null
  int64_t residual_stride;
  float residual_scale;
  float* out;  // [tokens, rows]
  int64_t out_stride;
  bool prefetch;       // ask for weights ahead of their use: Features::prefetch
  std::byte* scratch;  // kScratchBytes, 64-byte aligned
};
using LinearFunction = void (*)(const LinearBlock&);

struct RowKernels {
  // One token: values [padded to 64], scales [slices], sums [padded / 32].
  void (*quantize)(const float* x, int64_t cols, int8_t* values, float* scales, int32_t* sums);
  void (*layer_norm)(const float* x, const float* weight, const float* bias, float epsilon,
                     int64_t cols, float* out);
  float (*max_abs)(const float* x, int64_t cols);
  void (*rms_norm)(const float* x, const float* weight, float epsilon, int64_t cols, float* out);
  // One head of one token; x points at its first rotated dimension.
  void (*rope)(float* x, const float* cos_sin, int64_t rotary_dims, RopePairs pairs);
  void (*activate)(Activation kind, const float* x, int64_t n, float* out);
  void (*gated_activate)(Activation kind, const float* gate, const float* value, int64_t n,
                         float* out);
  void (*add)(const float* row, int64_t n, float* x);
  void (*to_half)(const float* x, int64_t n, uint16_t* out);
  void (*to_bfloat)(const float* x, int64_t n, uint16_t* out);
  // Returns the scale.
  float (*to_int8)(const float* x, int64_t n, int8_t* out);
  void (*attention)(const AttentionBlock& block);
  void (*sparse_attention)(const SparseHead& head);
  // One token: down[j] = Σ_k a[j][k] x[k] for `rank` rows of a [rank, cols].
  void (*lora_down)(const float* x, const float* a, int64_t cols, int64_t rank, float* down);
  // out[i] += scale * Σ_j down[j] b[j * stride + i] for i < rows.
  void (*lora_up)(const float* down, const float* b, int64_t stride, int64_t rank, float scale,
                  int64_t rows, float* out);
  // out = σ(x), out = softmax of x; out may be x.
  void (*sigmoid)(const float* x, int64_t n, float* out);
  void (*softmax)(const float* x, int64_t n, float* out);
  // out[i] += Σ_j weights[j] * rows[ids[j] * stride + i] for i < n; negative ids add nothing.
  void (*combine)(const float* rows, int64_t stride, const int32_t* ids, const float* weights,
                  int64_t count, int64_t n, float* out);
  // Chooses the integers of one int4 row: values [cols] in -8..7, group_scale
  // [ceil(cols / group)] in -15..16 (untouched when group is 0).
  void (*quantize_int4)(const float* x, int64_t cols, int group, float* row_scale,
                        int8_t* group_scale, int8_t* values);
};

extern const RowKernels kReferenceKernels;
extern const RowKernels kAvx2Kernels;
extern const RowKernels kAvx512Kernels;

void LinearReference(const LinearBlock& block);
void LinearAvx2(const LinearBlock& block);
void LinearAvx512(const LinearBlock& block);
void LinearAmx(const LinearBlock& block);

// A slice of an int4 panel, from column `begin` on, as `tiles` int8 tiles of 1 KiB,
// group scales multiplied in.
void UnpackInt4Avx512(const LinearBlock& block, const std::byte* panel, int64_t begin,
                      int64_t tiles, int8_t* out);

}  // namespace qianyi::cpu
