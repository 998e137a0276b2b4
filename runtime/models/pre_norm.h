// What GLMs from ChatGLM2 on have in common: RMSNorm before attention and before the MLP, rotary
// positions, an embedding, a last norm and a head. Attention and MLP are each family's own.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "runtime/model_spec.h"
#include "runtime/models/causal.h"
#include "runtime/models/config.h"
#include "runtime/models/tensor_lister.h"
#include "runtime/storage/model_file.h"

namespace qianyi {

struct PreNormConfig {
  int64_t layers = 0, hidden = 0, ffn = 0, vocab = 0, positions = 0;
  float epsilon = 0;
  RopeConfig rope;
  bool tied = false;  // the head's matrix is the embedding's
  std::vector<int32_t> end_tokens;
  // By default transformers' names.
  std::string embedding = "model.embed_tokens.weight";
  std::string final_norm = "model.norm.weight";
  std::string head = "lm_head.weight";
};
// transformers' fields, but for those of positions; errors are in the reader's status.
PreNormConfig ReadPreNorm(ConfigReader& reader, double default_epsilon);

// Lists embedding, for each layer an attention and an MLP by what is given, and the head; sets the
// sizes of the spec that follow from the config.
void ListPreNorm(const PreNormConfig& config, absl::FunctionRef<void(int64_t layer)> attention,
                 absl::FunctionRef<void(int64_t layer)> mlp, TensorLister& list);

// "model.layers.LAYER.NAME", transformers' names.
std::string LayerTensor(int64_t layer, const std::string& name);

// Heads in groups, each of which shares its keys and values.
struct GroupedQueries {
  int64_t heads = 0, groups = 0, head_dim = 0;
  bool bias = false;     // of the projections to queries, keys and values
  bool qk_norm = false;  // each head of queries and keys has a norm
  RopePairs pairs = RopePairs::kInterleaved;

  int64_t query_cols() const { return heads * head_dim; }
  int64_t group_cols() const { return groups * head_dim; }
  int64_t qkv_cols() const { return query_cols() + 2 * group_cols(); }
};
// transformers' fields, but for qk_norm and pairs.
GroupedQueries ReadGroupedQueries(ConfigReader& reader, int64_t hidden, bool default_bias);
// transformers' names: input norm, projections, norms of heads, output.
void ListGroupedQueries(const GroupedQueries& queries, int64_t layer, int64_t hidden,
                        TensorLister& list);
// Of the spec what follows from the heads.
void SizeGroupedQueries(const GroupedQueries& queries, ModelSpec* spec);

struct GroupedWeights {
  int input_norm = -1;
  Projection q, k = {}, v = {};  // k and v of no weight: q has all three, one below the other
  int q_norm = -1, k_norm = -1;  // -1: none
  Projection out = {};
};
GroupedWeights FindGroupedQueries(const ModelFile& file, int64_t layer);

class PreNormModel : public CausalModel {
 public:
  PreNormModel(const PreNormConfig& config, const ModelFile& file);
  absl::Status Run(int stage, const Step& step, Pass& pass) const final;
  void FinalNorm(Tensor rows, Pass& pass) const final { Norm(rows, final_norm_, rows, pass); }

 protected:
  virtual absl::Status Attention(int layer, const Step& step, Pass& pass) const = 0;
  virtual absl::Status Mlp(int layer, Pass& pass) const = 0;

  void Norm(Tensor x, int weight, Tensor out, Pass& pass) const;
  // What the heads of a layer make of the hidden state, before the output's projection:
  // `*attended`, in pass.narrow(query_cols).
  absl::Status AttendGrouped(const GroupedQueries& queries, const GroupedWeights& weights,
                             int layer, const Step& step, Pass& pass, Tensor* attended) const;
  // SwiGLU of pass.hidden() behind a norm, by one matrix of gate and value: *gated, in pass.wide().
  absl::Status GatedUp(int norm, Projection up, int64_t ffn, Pass& pass, Tensor* gated) const;

 private:
  absl::Status Head(Pass& pass) const;

  const int64_t hidden_;
  const float epsilon_;
  const std::vector<float> frequencies_;
  const int embedding_, final_norm_;
  const Projection head_;
};

}  // namespace qianyi
