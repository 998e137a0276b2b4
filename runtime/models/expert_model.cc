#include "runtime/models/expert_model.h"

#include <algorithm>

namespace qianyi {
namespace {

constexpr int64_t kMostExperts = 1 << 16;  // each is three tensors

void ListMlp(const ExpertModelConfig& config, int64_t layer, bool dense, TensorLister& list) {
  const int64_t hidden = config.base.hidden, ffn = config.base.ffn;
  list.Constant(LayerTensor(layer, "post_attention_layernorm.weight"), {hidden});
  if (!dense) {
    AddExperts(config.experts, LayerTensor(layer, "mlp."), hidden, list.kept(), &list.spec());
    return;
  }
  list.Linear(LayerTensor(layer, "mlp.gate_proj"), ffn, hidden, false);
  list.Linear(LayerTensor(layer, "mlp.up_proj"), ffn, hidden, false);
  list.Linear(LayerTensor(layer, "mlp.down_proj"), hidden, ffn, false);
}

}  // namespace

ExpertModelConfig ReadExpertModel(ConfigReader& reader) {
  ExpertModelConfig c;
  c.base = ReadPreNorm(reader, 1e-5);
  c.draft_layers = reader.Int("num_nextn_predict_layers", 0, 8, 0);
  c.experts = ReadExperts(reader);
  const int64_t first = reader.Int("first_k_dense_replace", 0, 1024, 1);
  for (int64_t i = 0; i < c.base.layers; ++i) c.dense.push_back(i < first);
  return c;
}

void CheckExpertModel(const ExpertModelConfig& config, ConfigReader& reader) {
  reader.Require((config.base.layers + config.draft_layers) * config.experts.count <= kMostExperts,
                 "num_hidden_layers times n_routed_experts must not exceed 65536");
}

void ListExpertModel(const ExpertModelConfig& config,
                     absl::FunctionRef<void(int64_t layer)> attention, TensorLister& list) {
  ListPreNorm(
      config.base, attention, [&](int64_t i) { ListMlp(config, i, config.dense[i], list); }, list);
  ModelSpec& spec = list.spec();
  spec.widest_row = std::max(spec.widest_row, config.experts.widest_row());
  const int64_t hidden = config.base.hidden, vocab = config.base.vocab;
  list.set_kept(true);
  for (int64_t i = config.base.layers; i < config.base.layers + config.draft_layers; ++i) {
    list.Constant(LayerTensor(i, "enorm.weight"), {hidden});
    list.Constant(LayerTensor(i, "hnorm.weight"), {hidden});
    list.Linear(LayerTensor(i, "eh_proj"), hidden, 2 * hidden, false);
    list.Linear(LayerTensor(i, "embed_tokens"), vocab, hidden, false);
    attention(i);
    ListMlp(config, i, /*dense=*/false, list);
    list.Constant(LayerTensor(i, "shared_head.norm.weight"), {hidden});
    list.Linear(LayerTensor(i, "shared_head.head"), vocab, hidden, false);
  }
  list.set_kept(false);
}

ExpertModel::ExpertModel(const ExpertModelConfig& config, const ModelFile& file)
    : PreNormModel(config.base, file), hidden_(config.base.hidden) {
  for (int64_t i = 0; i < config.base.layers; ++i) {
    const bool dense = config.dense[i];
    mlps_.push_back(
        {.norm = file.Find(LayerTensor(i, "post_attention_layernorm.weight")),
         .gated = FindGated(file, LayerTensor(i, dense ? "mlp." : "mlp.shared_experts.")),
         .ffn = dense ? config.base.ffn : config.experts.shared_ffn(),
         .experts = dense ? nullptr : FindExperts(config.experts, file, LayerTensor(i, "mlp."))});
  }
}

absl::Status ExpertModel::Mlp(int layer, Pass& pass) const {
  const MlpWeights& w = mlps_[layer];
  const Tensor x = pass.hidden(), normed = pass.narrow(hidden_);
  Norm(x, w.norm, normed, pass);
  if (w.experts == nullptr) return RunGated(w.gated, w.ffn, normed, x, pass);
  // What is missing is read while the shared expert is computed.
  w.experts->Begin(normed, pass);
  const MlpWeights* next = layer + 1 < static_cast<int>(mlps_.size()) ? &w + 1 : nullptr;
  if (next != nullptr && next->experts != nullptr && next->experts->WantsForesight(pass)) {
    const Tensor ahead = pass.wide(hidden_);
    Norm(x, next->norm, ahead, pass);
    next->experts->Foresee(ahead, pass);
  }
  if (auto status = RunGated(w.gated, w.ffn, normed, x, pass); !status.ok()) return status;
  return w.experts->Finish(normed, x, pass);
}

}  // namespace qianyi
