#include "runtime/models/pre_norm.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"

namespace qianyi {

PreNormConfig ReadPreNorm(ConfigReader& reader, double default_epsilon) {
  PreNormConfig c;
  c.layers = reader.Int("num_hidden_layers", 1, 1024);
  c.hidden = reader.Int("hidden_size", 1, 1 << 17);
  c.ffn = reader.Int("intermediate_size", 1, 1 << 19);
  c.vocab = reader.Int("vocab_size", 1, 1 << 24);
  c.positions = reader.Int("max_position_embeddings", 1, 1 << 24);
  c.epsilon = static_cast<float>(reader.Number("rms_norm_eps", 0, 1, default_epsilon));
  c.tied = reader.Bool("tie_word_embeddings", false);
  c.end_tokens = reader.Ids("eos_token_id", c.vocab, {});
  reader.MustBe("hidden_act", "silu");
  return c;
}

void ListPreNorm(const PreNormConfig& config, absl::FunctionRef<void(int64_t layer)> attention,
                 absl::FunctionRef<void(int64_t layer)> mlp, TensorLister& list) {
  list.Unit("embedding");
  if (!config.tied) {
    list.Add(config.embedding, {config.vocab, config.hidden}, TensorUse::kEmbedding);
  }
  for (int64_t i = 0; i < config.layers; ++i) {
    list.Unit(absl::StrCat("attention ", i));
    attention(i);
    list.Unit(absl::StrCat("mlp ", i));
    mlp(i);
  }
  list.Unit("head");
  list.Constant(config.final_norm, {config.hidden});
  if (config.tied) {
    list.Add(config.embedding, {config.vocab, config.hidden}, TensorUse::kEmbedding).tied = true;
  } else {
    list.Matrix(config.head, config.vocab, config.hidden);
  }
  ModelSpec& spec = list.spec();
  spec.hidden_size = config.hidden;
  spec.widest_row = std::max(2 * config.ffn, config.hidden);
  spec.rotary_dims = config.rope.dims;
  spec.vocab_size = config.vocab;
  spec.max_positions = config.positions;
}

std::string LayerTensor(int64_t layer, const std::string& name) {
  return absl::StrCat("model.layers.", layer, ".", name);
}

GroupedQueries ReadGroupedQueries(ConfigReader& reader, int64_t hidden, bool default_bias) {
  GroupedQueries q;
  q.heads = reader.Int("num_attention_heads", 1, 1024);
  q.groups = reader.Int("num_key_value_heads", 1, 1024, q.heads);
  q.head_dim = reader.Int("head_dim", 2, 1024, std::max<int64_t>(2, hidden / q.heads));
  q.bias = reader.Bool("attention_bias", default_bias);
  reader.Require(q.heads % q.groups == 0,
                 "num_attention_heads must be a multiple of num_key_value_heads");
  return q;
}

void ListGroupedQueries(const GroupedQueries& queries, int64_t layer, int64_t hidden,
                        TensorLister& list) {
  list.Constant(LayerTensor(layer, "input_layernorm.weight"), {hidden});
  list.Linear(LayerTensor(layer, "self_attn.q_proj"), queries.query_cols(), hidden, queries.bias);
  list.Linear(LayerTensor(layer, "self_attn.k_proj"), queries.group_cols(), hidden, queries.bias);
  list.Linear(LayerTensor(layer, "self_attn.v_proj"), queries.group_cols(), hidden, queries.bias);
  if (queries.qk_norm) {
    list.Constant(LayerTensor(layer, "self_attn.q_norm.weight"), {queries.head_dim});
    list.Constant(LayerTensor(layer, "self_attn.k_norm.weight"), {queries.head_dim});
  }
  list.Linear(LayerTensor(layer, "self_attn.o_proj"), hidden, queries.query_cols(), false);
}

void SizeGroupedQueries(const GroupedQueries& queries, ModelSpec* spec) {
  const int layers = static_cast<int>(spec->units.size() - 2) / 2;
  spec->kv = {layers, queries.groups, queries.head_dim, queries.head_dim};
  spec->attention_cols = queries.query_cols();
  spec->widest_row = std::max(spec->widest_row, queries.qkv_cols());
}

GroupedWeights FindGroupedQueries(const ModelFile& file, int64_t layer) {
  return {.input_norm = file.Find(LayerTensor(layer, "input_layernorm.weight")),
          .q = FindLinear(file, LayerTensor(layer, "self_attn.q_proj")),
          .k = FindLinear(file, LayerTensor(layer, "self_attn.k_proj")),
          .v = FindLinear(file, LayerTensor(layer, "self_attn.v_proj")),
          .q_norm = file.Find(LayerTensor(layer, "self_attn.q_norm.weight")),
          .k_norm = file.Find(LayerTensor(layer, "self_attn.k_norm.weight")),
          .out = FindLinear(file, LayerTensor(layer, "self_attn.o_proj"))};
}

PreNormModel::PreNormModel(const PreNormConfig& config, const ModelFile& file)
    : CausalModel(file.spec, config.end_tokens),
      hidden_(config.hidden),
      epsilon_(config.epsilon),
      frequencies_(RopeFrequencies(config.rope.base, config.rope.dims)),
      embedding_(file.Find(config.embedding)),
      final_norm_(file.Find(config.final_norm)),
      head_({config.tied ? embedding_ : file.Find(config.head)}) {}

absl::Status PreNormModel::Run(int stage, const Step& step, Pass& pass) const {
  if (stage == 0) {
    pass.PrepareRope(step.positions[0], frequencies_);
    return pass.Embed(embedding_, step);
  }
  if (stage == stages() - 1) return Head(pass);
  const int layer = (stage - 1) / 2;
  return stage % 2 == 1 ? Attention(layer, step, pass) : Mlp(layer, pass);
}

void PreNormModel::Norm(Tensor x, int weight, Tensor out, Pass& pass) const {
  pass.backend().rms_norm(
      {.x = x, .weight = pass.constant(weight), .epsilon = epsilon_, .out = out}, pass.stream());
}

absl::Status PreNormModel::AttendGrouped(const GroupedQueries& queries,
                                         const GroupedWeights& weights, int layer, const Step& step,
                                         Pass& pass, Tensor* attended) const {
  const Tensor normed = pass.narrow(hidden_);
  const Tensor qkv = pass.wide(queries.qkv_cols());
  const int64_t query_cols = queries.query_cols(), group_cols = queries.group_cols();
  const Tensor q = qkv.Columns(0, query_cols);
  const Tensor k = qkv.Columns(query_cols, group_cols);
  const Tensor v = qkv.Columns(query_cols + group_cols, group_cols);
  Norm(pass.hidden(), weights.input_norm, normed, pass);
  const bool fused = weights.k.weight < 0;
  absl::Status status = pass.Linear(weights.q, normed, fused ? qkv : q);
  if (status.ok() && !fused) status = pass.Linear(weights.k, normed, k);
  if (status.ok() && !fused) status = pass.Linear(weights.v, normed, v);
  if (!status.ok()) return status;
  // Each head of each token by itself.
  const auto norm_heads = [&](Tensor x, int weight) {
    for (int64_t t = 0; weight >= 0 && t < x.rows; ++t) {
      const Tensor heads = F32(x.f32(t), x.cols / queries.head_dim, queries.head_dim);
      Norm(heads, weight, heads, pass);
    }
  };
  norm_heads(q, weights.q_norm);
  norm_heads(k, weights.k_norm);
  pass.Rope(q, queries.heads, queries.head_dim, 0, queries.pairs);
  pass.Rope(k, queries.groups, queries.head_dim, 0, queries.pairs);
  *attended = pass.narrow(query_cols);
  const float scale = 1.0f / std::sqrt(static_cast<float>(queries.head_dim));
  pass.Attend(step, layer, q, k, v, queries.heads, scale, *attended);
  return absl::OkStatus();
}

absl::Status PreNormModel::GatedUp(int norm, Projection up, int64_t ffn, Pass& pass,
                                   Tensor* gated) const {
  const Tensor normed = pass.narrow(hidden_);
  const Tensor both = pass.wide(2 * ffn);
  Norm(pass.hidden(), norm, normed, pass);
  if (auto status = pass.Linear(up, normed, both); !status.ok()) return status;
  *gated = both.Columns(0, ffn);
  pass.backend().gated_activate(
      {.kind = Activation::kSilu, .gate = *gated, .value = both.Columns(ffn, ffn), .out = *gated},
      pass.stream());
  return absl::OkStatus();
}

absl::Status PreNormModel::Head(Pass& pass) const {
  pass.TakeLogitRows();
  FinalNorm(pass.head_input(), pass);
  return pass.Linear(head_, pass.head_input(), pass.logits());
}

}  // namespace qianyi
