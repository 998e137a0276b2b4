#include "runtime/models/post_norm.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/packed.h"
#include "runtime/models/causal.h"

namespace qianyi {
namespace {

constexpr char kEmbedding[] = "transformer.word_embeddings.weight";

}  // namespace

ModelSpec DescribePostNorm(const PostNormShape& s) {
  ModelSpec spec;
  TensorLister list(&spec);
  const int64_t d = s.hidden;
  const bool tied = s.head.empty();
  list.Unit("embedding");
  if (!tied) list.Add(kEmbedding, {s.vocab, d}, TensorUse::kEmbedding);
  for (int64_t i = 0; i < s.layers; ++i) {
    list.Unit(absl::StrCat("attention ", i));
    ListMegatronAttention(i, d, list, s.head_dim());
    list.Unit(absl::StrCat("mlp ", i));
    ListMegatronMlp(i, d, s.gated ? 2 * s.inner : s.inner, s.inner, list);
  }
  list.Unit("head");
  list.LayerNorm("transformer.final_layernorm", d);
  if (tied) {
    list.Add(kEmbedding, {s.vocab, d}, TensorUse::kEmbedding).tied = true;
  } else {
    list.Matrix(s.head, s.vocab, d);
  }
  spec.kv = {static_cast<int>(s.layers), s.heads, s.head_dim(), s.head_dim()};
  spec.hidden_size = d;
  spec.attention_cols = d;
  spec.widest_row = std::max(3 * d, s.gated ? 2 * s.inner : s.inner);
  spec.rotary_dims = s.head_dim();
  spec.vocab_size = s.vocab;
  spec.max_positions = s.positions;
  spec.bidirectional = true;
  return spec;
}

TensorSources PostNormSources(const TensorSpec& tensor, bool gated) {
  const std::string& name = tensor.name;
  const auto is = [&](const char* part) { return name.find(part) != name.npos; };
  // Heads lie together, so query, key and value are cut in one.
  if (name == kEmbedding || is("query_key_value") || is("lm_head")) return {RankSplit::kRows};
  if (is("dense_h_to_4h")) return {gated ? RankSplit::kRowHalves : RankSplit::kRows};
  // The biases of these two are added once, after the ranks' products: each has a copy.
  if (name.ends_with("dense.weight") || name.ends_with("dense_4h_to_h.weight")) {
    return {RankSplit::kColumns};
  }
  return {};
}

PostNormModel::PostNormModel(PostNormShape shape, const ModelFile& file)
    : Model(file.spec),
      shape_(std::move(shape)),
      alpha_(std::sqrt(2.0f * static_cast<float>(shape_.layers))),
      frequencies_(
          RopeFrequencies(shape_.rope_base, shape_.head_dim() / (shape_.two_rows ? 2 : 1))) {
  for (float& f : frequencies_) {
    if (shape_.half_frequencies) f = HalfToFloat(FloatToHalf(f));
  }
  embedding_ = file.Find(kEmbedding);
  head_ = shape_.head.empty() ? embedding_ : file.Find(shape_.head);
  for (int64_t i = 0; i < shape_.layers; ++i) layers_.push_back(FindMegatronLayer(file, i));
  final_norm_ = FindLayerNorm(file, "transformer.final_layernorm");
}

absl::Status PostNormModel::Run(int stage, const Step& step, Pass& pass) const {
  if (stage == 0) return Embed(step, pass);
  if (stage == stages() - 1) return Head(pass);
  const int layer = (stage - 1) / 2;
  return stage % 2 == 1 ? Attention(layer, step, pass) : Mlp(layer, pass);
}

void PostNormModel::Norm(Tensor x, LayerNormWeights w, Pass& pass) const {
  pass.backend().layer_norm({.x = x,
                             .weight = pass.constant(w.weight),
                             .bias = pass.constant(w.bias),
                             .epsilon = shape_.epsilon,
                             .out = x},
                            pass.stream());
}

void PostNormModel::Rotate(Tensor x, Pass& pass) const {
  const int64_t dim = shape_.head_dim();
  pass.Rope(x, shape_.heads, dim, 0, RopePairs::kHalfSplit);
  if (shape_.two_rows) pass.Rope(x, shape_.heads, dim, dim / 2, RopePairs::kHalfSplit, 1);
}

absl::Status PostNormModel::Embed(const Step& step, Pass& pass) const {
  pass.PrepareRope(step.positions[0], frequencies_);
  if (shape_.two_rows) pass.PrepareRope(step.positions[1], frequencies_, 1);
  return pass.Embed(embedding_, step);
}

absl::Status PostNormModel::Attention(int layer, const Step& step, Pass& pass) const {
  const MegatronLayer& w = layers_[layer];
  const int64_t d = shape_.hidden;
  const Tensor x = pass.hidden();
  const Tensor qkv = pass.wide(3 * d);
  Norm(x, w.input_norm, pass);
  if (auto status = pass.Linear(w.qkv, x, qkv); !status.ok()) return status;
  const Tensor q = qkv.Columns(0, d), k = qkv.Columns(d, d), v = qkv.Columns(2 * d, d);
  Rotate(q, pass);
  Rotate(k, pass);
  // The originals scale the scores down by the layer's number and up again, against overflow.
  const float scale = 1.0f / std::sqrt(static_cast<float>(shape_.head_dim()));
  const Tensor attended = pass.narrow(d);
  pass.Attend(step, layer, q, k, v, shape_.heads, scale, attended);
  return pass.Linear(w.dense, attended, x, x, alpha_);
}

absl::Status PostNormModel::Mlp(int layer, Pass& pass) const {
  const MegatronLayer& w = layers_[layer];
  const int64_t inner = shape_.inner;
  const Tensor x = pass.hidden();
  const Tensor up = pass.wide(shape_.gated ? 2 * inner : inner);
  Norm(x, w.mlp_norm, pass);
  if (auto status = pass.Linear(w.up, x, up); !status.ok()) return status;
  const Tensor first = up.Columns(0, inner);
  if (shape_.gated) {
    pass.backend().gated_activate({.kind = Activation::kGeluErf,
                                   .gate = up.Columns(inner, inner),
                                   .value = first,
                                   .out = first},
                                  pass.stream());
  } else {
    pass.backend().activate({.kind = Activation::kGeluTanh, .x = up, .out = up}, pass.stream());
  }
  return pass.Linear(w.down, first, x, x, alpha_);
}

absl::Status PostNormModel::Head(Pass& pass) const {
  pass.TakeLogitRows();
  FinalNorm(pass.head_input(), pass);
  return pass.Linear({head_}, pass.head_input(), pass.logits());
}

}  // namespace qianyi
