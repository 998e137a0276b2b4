// A backend is one table of kernels for one kind of device. Kernels only enqueue on
// a stream: they never allocate, never fail and never look at a model or a file.
// All activations are f32; shapes stand beside each field. Every token's result
// depends on that token's inputs alone (never on its neighbours in the batch, the
// number of threads or how the work was tiled): docs/numerics.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "kernels/convolution.h"
#include "kernels/experts.h"
#include "kernels/kv_layer.h"
#include "kernels/lora.h"
#include "kernels/packed.h"
#include "kernels/sampling.h"
#include "kernels/sparse_attention.h"
#include "kernels/tensor.h"

namespace qianyi {

struct Stream {
  void* handle = nullptr;  // a thread pool on the CPU, a stream and its workspace on CUDA
};
struct Event {
  void* handle = nullptr;  // a point in a stream's work
};
struct Graph {
  void* handle = nullptr;  // work of a stream that can be given to it again, as a whole
};

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

// All entries are set unless marked optional. Thread-safe: a table is constant; one
// stream must be used by one thread at a time.
struct Backend {
  std::string_view name;
  std::string_view variant;  // instruction set or chip in use

  void (*quantize)(const Quantize&, Stream) = nullptr;
  void (*linear)(const Linear&, Stream) = nullptr;
  void (*gather)(const Gather&, Stream) = nullptr;
  void (*add_rows)(const AddRows&, Stream) = nullptr;
  void (*copy_rows)(const CopyRows&, Stream) = nullptr;
  void (*layer_norm)(const LayerNorm&, Stream) = nullptr;
  void (*rms_norm)(const RmsNorm&, Stream) = nullptr;
  void (*rope)(const Rope&, Stream) = nullptr;
  void (*activate)(const Activate&, Stream) = nullptr;
  void (*gated_activate)(const GatedActivate&, Stream) = nullptr;
  void (*kv_write)(const KvWrite&, Stream) = nullptr;
  void (*attention)(const Attention&, Stream) = nullptr;
  void (*sparse_attention)(const SparseAttention&, Stream) = nullptr;
  void (*lora)(const Lora&, Stream) = nullptr;
  void (*route)(const Route&, Stream) = nullptr;
  void (*combine)(const Combine&, Stream) = nullptr;
  void (*unfold)(const Unfold&, Stream) = nullptr;
  // Optional: experts of which the host does not learn who was chosen.
  void (*group_choices)(const GroupChoices&, Stream) = nullptr;
  void (*expert_linear)(const ExpertLinear&, Stream) = nullptr;
  // Optional: where logits are far from the host, which draws tokens otherwise.
  void (*draw_tokens)(const DrawTokens&, Stream) = nullptr;

  bool (*supports)(PackedFormat) = nullptr;
  int64_t max_head_dim = 0;  // of keys and values in attention; 0 = any

  // Memory of the device, 2 MiB aligned and zeroed; null when there is no room.
  void* (*alloc)(size_t bytes) = nullptr;
  void (*free)(void* data, size_t bytes) = nullptr;

  // A stream of work. On the CPU `threads` workers (the caller is one of them); on a device any
  // number but 0, which is for copies alone.
  Stream (*create_stream)(int threads) = nullptr;
  void (*destroy_stream)(Stream) = nullptr;
  // How many of its threads a stream of the CPU works with from here on, 1 to all of them; results
  // stay the same. Does nothing on a device.
  void (*use_threads)(Stream, int threads) = nullptr;
  void (*synchronize)(Stream) = nullptr;

  // Whether kernels and the host use the same memory. Where they do not, all that arguments point
  // at, structs and tables inside them included, must be memory of alloc() or alloc_mapped().
  bool host_memory = true;
  // Memory of the host that kernels reach over the link ("mapped", "zero-copy"), for what the
  // device has no room for; zeroed, null without room.
  void* (*alloc_mapped)(size_t bytes) = nullptr;
  void (*free_mapped)(void* data, size_t bytes) = nullptr;
  // Host memory that copies go on from and to while the caller does; zeroed, null without room.
  void* (*alloc_host)(size_t bytes) = nullptr;
  void (*free_host)(void* data, size_t bytes) = nullptr;
  // In the stream's order; the host's side is of alloc_host and is left alone until it is done.
  void (*upload)(void* device, const void* host, size_t bytes, Stream) = nullptr;
  void (*download)(void* host, const void* device, size_t bytes, Stream) = nullptr;
  // Within the memory of kernels, mapped memory included.
  void (*copy)(void* to, const void* from, size_t bytes, Stream) = nullptr;

  // An event is recorded behind the work that a stream has by then. Another stream waits for it
  // with its later work; await waits on the host.
  Event (*create_event)() = nullptr;
  void (*destroy_event)(Event) = nullptr;
  void (*record)(Event, Stream) = nullptr;
  void (*wait)(Stream, Event) = nullptr;
  void (*await)(Event) = nullptr;

  // Optional: kernels that a stream is given between the two are kept and not run. False, and then
  // they run, or null, and then they did not, where the device cannot. Launching a graph enqueues
  // them all.
  bool (*begin_capture)(Stream) = nullptr;
  Graph (*end_capture)(Stream) = nullptr;
  void (*launch)(Graph, Stream) = nullptr;
  void (*destroy_graph)(Graph) = nullptr;

  // True once the device has failed; nothing that it computed since can be trusted.
  bool (*failed)() = nullptr;
  // Bytes of the device in all, and free; 0 where that is the host's.
  void (*memory_info)(size_t* total, size_t* free) = nullptr;
};

// The best variant this processor and operating system grant; QIANYI_CPU=reference,
// avx2, avx512 or amx in the environment asks for a lesser one.
const Backend& Cpu();

// Every variant this machine can run, the scalar float32 reference first.
struct BackendList {
  const Backend* items[8];
  int count;
};
const BackendList& CpuVariants();

// The first CUDA device; null when the program was built without CUDA, or there is no driver or
// device for it.
const Backend* Cuda();

}  // namespace qianyi
