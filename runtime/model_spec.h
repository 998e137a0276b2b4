// What a model family says about its weights, before any weight is read.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json_fwd.hpp"

namespace qianyi {

enum class TensorUse : uint8_t {
  kMatrix,     // streamed: out = x Wᵀ
  kEmbedding,  // rows are gathered; when tied it is also the head's matrix
  kConstant,   // norm, bias, router, position table: always in memory, f32
  kExpert,     // a matrix of an expert: read when tokens were routed to it, and cached
};

// Some rows of each head of a matrix [heads * head_rows, cols]: those from `first` on, `rows` of
// them. `transposed`: ours is [heads * cols, rows], each head's part by itself.
struct HeadSlice {
  std::string tensor;  // in the checkpoint; empty: no slice
  int64_t heads = 0;
  int64_t head_rows = 0;
  int64_t first = 0;
  int64_t rows = 0;
  bool transposed = false;
};

struct TensorSpec {
  std::string name;            // the checkpoint's own name
  std::vector<int64_t> shape;  // [rows, cols] or [n]
  TensorUse use = TensorUse::kMatrix;
  int unit = 0;       // execution order: attention 0, mlp 0, attention 1, …
  bool tied = false;  // kEmbedding only: also read by the head
  int expert = -1;    // kExpert only: number of its expert, counted over all layers
  // Stored where the checkpoint has it, and never loaded: what later drafts are made with.
  bool kept = false;
  // Of the vector that corrects a router's scores: how many experts a token gets, and how uneven
  // invented values are to make them (runtime/storage/synth_router.h).
  int64_t routed = 0;
  double router_skew = 0;
  // Checkpoints have the rows by head, q | k | v of this many rows each, and we keep all q, all k,
  // all v; 0: they have them as we do.
  int64_t by_head = 0;
  // Where it is a part of one that checkpoints have as a whole.
  HeadSlice slice = {};
  // Set while converting: integers of so many bits that the checkpoint has, with one scale per row.
  int integer_bits = 0;

  int64_t rows() const { return shape.empty() ? 1 : shape[0]; }
  int64_t cols() const { return shape.size() < 2 ? 1 : shape[1]; }
};

// Some rows of a matrix: `runs` runs of `run` rows each, the first at `begin`, `stride` apart. With
// `parts` > 1 each is followed by others like it, `part_stride` further on.
struct RowRuns {
  int64_t begin = 0;
  int64_t run = 0;
  int64_t stride = 0;
  int64_t runs = 1;
  int64_t parts = 1;
  int64_t part_stride = 0;

  int64_t rows() const { return run * runs * parts; }
  // Where row i of them lies in the matrix.
  int64_t Row(int64_t i) const {
    return begin + i / (run * parts) * stride + i / run % parts * part_stride + i % run;
  }
  bool together() const { return runs == 1 && parts == 1; }
  friend bool operator==(const RowRuns&, const RowRuns&) = default;
};

// Another name under which adapters address a matrix, or a part of a fused one.
struct ModuleAlias {
  std::string module;  // "transformer.encoder.layers.0.self_attention.q_proj"
  std::string tensor;  // "transformer.encoder.layers.0.self_attention.query_key_value.weight"
  RowRuns rows;        // its rows, in the part's order
};

// Bytes of key-value cache are sized from these.
struct KvSpec {
  int layers = 0;
  int64_t heads = 0;
  int64_t key_dim = 0;
  int64_t value_dim = 0;
  bool values_in_keys = false;  // as in KvLayer

  int64_t elements_per_layer() const {
    return heads * (key_dim + (values_in_keys ? 0 : value_dim));
  }
  int64_t elements_per_token() const { return layers * elements_per_layer(); }
};

// Mixtures of experts. An expert's matrices are read and kept together.
struct ExpertSpec {
  int64_t total = 0;      // over all layers; 0 = the model has none
  int64_t per_layer = 0;  // the most in one
  int64_t per_token = 0;  // the most that a token goes to in one
};

// The part of a model that planning, converting and inventing weights need.
struct ModelSpec {
  std::string family;  // as in runtime/models/registry.h: "glm-blocklm", "chatglm2"
  std::string config_json;
  std::vector<std::string> units;    // names in execution order: "embedding", "attention 0", …
  std::vector<TensorSpec> tensors;   // in execution order
  std::vector<ModuleAlias> aliases;  // besides every matrix's own name without ".weight"
  KvSpec kv;
  ExpertSpec experts;
  int64_t hidden_size = 0;
  int64_t attention_cols = 0;  // heads * value_dim
  int64_t widest_row = 0;      // the widest activation of one token in a layer, elements
  int64_t rotary_dims = 0;     // rotated dimensions of a head, 0 without rotary positions
  int64_t vocab_size = 0;
  int64_t max_positions = 0;
  bool bidirectional = false;  // contexts are atomic: they ride one step whole
};

}  // namespace qianyi
