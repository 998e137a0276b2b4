// GLM-4.5, GLM-4.5-Air, GLM-4.6 and GLM-4.7 in the names of transformers' Glm4Moe: pre-norm
// RMSNorm, grouped queries with optional norms of queries and keys, half-split rotary positions on
// the first part of each head, SwiGLU in the first layers, then experts beside a shared one.
// zai-org/GLM-4.5. The layer that predicts a second token is stored and not run.
#include "runtime/models/glm4_moe.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "runtime/models/causal.h"
#include "runtime/models/config.h"
#include "runtime/models/expert_layer.h"
#include "runtime/models/expert_names.h"
#include "runtime/models/gguf_config.h"
#include "runtime/models/sources.h"
#include "runtime/storage/model_file.h"

namespace qianyi {
namespace {

constexpr int64_t kMostExperts = 1 << 16;  // each is three tensors

struct Config {
  int64_t layers, hidden, ffn, heads, groups, head_dim, vocab, positions;
  int64_t dense_layers, draft_layers;
  ExpertConfig experts;
  float epsilon;
  RopeConfig rope;
  bool qkv_bias, qk_norm, tied;
  std::vector<int32_t> end_tokens;

  int64_t query_cols() const { return heads * head_dim; }
  int64_t group_cols() const { return groups * head_dim; }
  int64_t qkv_cols() const { return query_cols() + 2 * group_cols(); }
};

absl::StatusOr<Config> ReadConfig(const nlohmann::json& json) {
  ConfigReader reader(json);
  Config c;
  c.layers = reader.Int("num_hidden_layers", 1, 1024);
  c.hidden = reader.Int("hidden_size", 1, 1 << 17);
  c.ffn = reader.Int("intermediate_size", 1, 1 << 19);
  c.heads = reader.Int("num_attention_heads", 1, 1024);
  c.groups = reader.Int("num_key_value_heads", 1, 1024, c.heads);
  c.head_dim = reader.Int("head_dim", 2, 1024, std::max<int64_t>(2, c.hidden / c.heads));
  c.vocab = reader.Int("vocab_size", 1, 1 << 24);
  c.positions = reader.Int("max_position_embeddings", 1, 1 << 24);
  c.dense_layers = reader.Int("first_k_dense_replace", 0, 1024, 1);
  c.draft_layers = reader.Int("num_nextn_predict_layers", 0, 8, 0);
  c.experts = ReadExperts(reader);
  c.epsilon = static_cast<float>(reader.Number("rms_norm_eps", 0, 1, 1e-5));
  c.qkv_bias = reader.Bool("attention_bias", false);
  c.qk_norm = reader.Bool("use_qk_norm", false);
  c.tied = reader.Bool("tie_word_embeddings", false);
  c.end_tokens = reader.Ids("eos_token_id", c.vocab, {});
  reader.MustBe("hidden_act", "silu");
  c.rope = ReadRope(json, c.head_dim, 0.5, reader);
  if (reader.status().ok()) {
    reader.Require((c.layers + c.draft_layers) * c.experts.count <= kMostExperts,
                   "num_hidden_layers times n_routed_experts must not exceed 65536");
    reader.Require(c.heads % c.groups == 0,
                   "num_attention_heads must be a multiple of num_key_value_heads");
  }
  if (!reader.status().ok()) return reader.status();
  return c;
}

std::string Layer(int64_t layer, const char* name) {
  return absl::StrCat("model.layers.", layer, ".", name);
}

// Lists the tensors of one model in execution order.
class Lister {
 public:
  Lister(const Config& config, ModelSpec* spec) : c_(config), spec_(*spec) {}

  void Unit(std::string name) { spec_.units.push_back(std::move(name)); }

  TensorSpec& Add(std::string name, std::vector<int64_t> shape, TensorUse use) {
    spec_.tensors.push_back({.name = std::move(name),
                             .shape = std::move(shape),
                             .use = use,
                             .unit = static_cast<int>(spec_.units.size()) - 1,
                             .kept = kept_});
    return spec_.tensors.back();
  }

  void Attention(int64_t i) {
    Constant(i, "input_layernorm.weight", {c_.hidden});
    for (const char* part : {"q", "k", "v"}) {
      const int64_t rows = *part == 'q' ? c_.query_cols() : c_.group_cols();
      const std::string name = absl::StrCat(Layer(i, "self_attn."), part, "_proj.");
      if (c_.qkv_bias) Add(name + "bias", {rows}, TensorUse::kConstant);
      Add(name + "weight", {rows, c_.hidden}, TensorUse::kMatrix);
    }
    if (c_.qk_norm) {
      Constant(i, "self_attn.q_norm.weight", {c_.head_dim});
      Constant(i, "self_attn.k_norm.weight", {c_.head_dim});
    }
    Matrix(i, "self_attn.o_proj.weight", c_.hidden, c_.query_cols());
  }

  void Mlp(int64_t i) {
    Constant(i, "post_attention_layernorm.weight", {c_.hidden});
    if (i < c_.dense_layers) {
      Matrix(i, "mlp.gate_proj.weight", c_.ffn, c_.hidden);
      Matrix(i, "mlp.up_proj.weight", c_.ffn, c_.hidden);
      Matrix(i, "mlp.down_proj.weight", c_.hidden, c_.ffn);
    } else {
      AddExperts(c_.experts, Layer(i, "mlp."), c_.hidden, kept_, &spec_);
    }
  }

  // The layer behind the last, where the checkpoint has it.
  void Draft(int64_t i) {
    kept_ = true;
    Constant(i, "enorm.weight", {c_.hidden});
    Constant(i, "hnorm.weight", {c_.hidden});
    Matrix(i, "eh_proj.weight", c_.hidden, 2 * c_.hidden);
    Matrix(i, "embed_tokens.weight", c_.vocab, c_.hidden);
    Attention(i);
    Mlp(i);
    Constant(i, "shared_head.norm.weight", {c_.hidden});
    Matrix(i, "shared_head.head.weight", c_.vocab, c_.hidden);
    kept_ = false;
  }

 private:
  void Constant(int64_t i, const char* name, std::vector<int64_t> shape) {
    Add(Layer(i, name), std::move(shape), TensorUse::kConstant);
  }
  void Matrix(int64_t i, const char* name, int64_t rows, int64_t cols) {
    Add(Layer(i, name), {rows, cols}, TensorUse::kMatrix);
  }

  const Config& c_;
  ModelSpec& spec_;
  bool kept_ = false;
};

absl::StatusOr<ModelSpec> Describe(const nlohmann::json& json) {
  absl::StatusOr<Config> config = ReadConfig(json);
  if (!config.ok()) return config.status();
  const Config& c = *config;
  ModelSpec spec;
  spec.family = "glm4-moe";
  Lister list(c, &spec);
  list.Unit("embedding");
  list.Add("model.embed_tokens.weight", {c.vocab, c.hidden}, TensorUse::kEmbedding).tied = c.tied;
  for (int64_t i = 0; i < c.layers; ++i) {
    list.Unit(absl::StrCat("attention ", i));
    list.Attention(i);
    list.Unit(absl::StrCat("mlp ", i));
    list.Mlp(i);
  }
  list.Unit("head");
  list.Add("model.norm.weight", {c.hidden}, TensorUse::kConstant);
  if (!c.tied) list.Add("lm_head.weight", {c.vocab, c.hidden}, TensorUse::kMatrix);
  for (int64_t i = 0; i < c.draft_layers; ++i) list.Draft(c.layers + i);
  spec.kv = {static_cast<int>(c.layers), c.groups, c.head_dim, c.head_dim};
  spec.hidden_size = c.hidden;
  spec.attention_cols = c.query_cols();
  spec.widest_row = std::max({c.qkv_cols(), 2 * c.ffn, c.experts.widest_row()});
  spec.rotary_dims = c.rope.dims;
  spec.vocab_size = c.vocab;
  spec.max_positions = c.positions;
  return spec;
}

class Glm4Moe : public CausalModel {
 public:
  Glm4Moe(Config config, const ModelFile& file)
      : CausalModel(file.spec, config.end_tokens),
        config_(std::move(config)),
        frequencies_(RopeFrequencies(config_.rope.base, config_.rope.dims)) {
    embedding_ = file.Find("model.embed_tokens.weight");
    const auto with_bias = [&](const std::string& name) {
      return Projection{file.Find(name + ".weight"), file.Find(name + ".bias")};
    };
    for (int64_t i = 0; i < config_.layers; ++i) {
      LayerWeights layer{
          .input_norm = file.Find(Layer(i, "input_layernorm.weight")),
          .q = with_bias(Layer(i, "self_attn.q_proj")),
          .k = with_bias(Layer(i, "self_attn.k_proj")),
          .v = with_bias(Layer(i, "self_attn.v_proj")),
          .q_norm = file.Find(Layer(i, "self_attn.q_norm.weight")),
          .k_norm = file.Find(Layer(i, "self_attn.k_norm.weight")),
          .out = {file.Find(Layer(i, "self_attn.o_proj.weight"))},
          .mlp_norm = file.Find(Layer(i, "post_attention_layernorm.weight")),
          .mlp =
              FindGated(file, Layer(i, i < config_.dense_layers ? "mlp." : "mlp.shared_experts.")),
          .ffn = i < config_.dense_layers ? config_.ffn : config_.experts.shared_ffn(),
          .experts = nullptr,
      };
      if (i >= config_.dense_layers) {
        layer.experts = FindExperts(config_.experts, file, Layer(i, "mlp."));
      }
      layers_.push_back(std::move(layer));
    }
    final_norm_ = file.Find("model.norm.weight");
    head_ = {config_.tied ? embedding_ : file.Find("lm_head.weight")};
  }

  absl::Status Run(int stage, const Step& step, Pass& pass) const override {
    if (stage == 0) {
      pass.PrepareRope(step.positions[0], frequencies_);
      return pass.Embed(embedding_, step);
    }
    if (stage == stages() - 1) return Head(step, pass);
    const int layer = (stage - 1) / 2;
    return stage % 2 == 1 ? Attention(layer, step, pass) : Mlp(layer, pass);
  }

  void FinalNorm(Tensor rows, Pass& pass) const override { Norm(rows, final_norm_, rows, pass); }

 private:
  struct LayerWeights {
    int input_norm;
    Projection q, k, v;
    int q_norm, k_norm;  // -1: none
    Projection out;
    int mlp_norm;
    GatedWeights mlp;  // of a dense layer, or the shared expert
    int64_t ffn;
    std::unique_ptr<ExpertLayer> experts;  // null in a dense layer
  };

  void Norm(Tensor x, int weight, Tensor out, Pass& pass) const {
    pass.backend().rms_norm(
        {.x = x, .weight = pass.constant(weight), .epsilon = config_.epsilon, .out = out},
        pass.stream());
  }

  // Each head of each token by itself.
  void NormHeads(Tensor x, int weight, Pass& pass) const {
    if (weight < 0) return;
    for (int64_t t = 0; t < x.rows; ++t) {
      const Tensor heads = F32(x.f32(t), x.cols / config_.head_dim, config_.head_dim);
      Norm(heads, weight, heads, pass);
    }
  }

  absl::Status Attention(int layer, const Step& step, Pass& pass) const {
    const LayerWeights& w = layers_[layer];
    const Tensor x = pass.hidden();
    const Tensor normed = pass.narrow(config_.hidden);
    const Tensor qkv = pass.wide(config_.qkv_cols());
    const Tensor q = qkv.Columns(0, config_.query_cols());
    const Tensor k = qkv.Columns(config_.query_cols(), config_.group_cols());
    const Tensor v = qkv.Columns(config_.query_cols() + config_.group_cols(), config_.group_cols());
    Norm(x, w.input_norm, normed, pass);
    if (auto status = pass.Linear(w.q, normed, q); !status.ok()) return status;
    if (auto status = pass.Linear(w.k, normed, k); !status.ok()) return status;
    if (auto status = pass.Linear(w.v, normed, v); !status.ok()) return status;
    NormHeads(q, w.q_norm, pass);
    NormHeads(k, w.k_norm, pass);
    pass.Rope(q, config_.heads, config_.head_dim, 0, RopePairs::kHalfSplit);
    pass.Rope(k, config_.groups, config_.head_dim, 0, RopePairs::kHalfSplit);
    const Tensor attended = pass.narrow(config_.query_cols());
    const float scale = 1.0f / std::sqrt(static_cast<float>(config_.head_dim));
    pass.Attend(step, layer, q, k, v, config_.heads, scale, attended);
    return pass.Linear(w.out, attended, x, x);
  }

  absl::Status Mlp(int layer, Pass& pass) const {
    const LayerWeights& w = layers_[layer];
    const Tensor x = pass.hidden();
    const Tensor normed = pass.narrow(config_.hidden);
    Norm(x, w.mlp_norm, normed, pass);
    if (w.experts == nullptr) return RunGated(w.mlp, w.ffn, normed, x, pass);
    // What is missing is read while the shared expert is computed.
    w.experts->Begin(normed, pass);
    const bool another = layer + 1 < static_cast<int>(layers_.size());
    if (another && ExpertLayer::WantsForesight(pass)) {
      const Tensor ahead = pass.expert_input(x.rows);
      Norm(x, layers_[layer + 1].mlp_norm, ahead, pass);
      layers_[layer + 1].experts->Foresee(ahead, pass);
    }
    if (auto status = RunGated(w.mlp, w.ffn, normed, x, pass); !status.ok()) return status;
    return w.experts->Finish(normed, x, pass);
  }

  absl::Status Head(const Step& step, Pass& pass) const {
    pass.TakeLogitRows(step);
    FinalNorm(pass.head_input(), pass);
    return pass.Linear(head_, pass.head_input(), pass.logits());
  }

  const Config config_;
  const std::vector<float> frequencies_;
  int embedding_ = -1;
  std::vector<LayerWeights> layers_;
  int final_norm_ = -1;
  Projection head_;
};

TensorSources Sources(const nlohmann::json& json, const TensorSpec& tensor) {
  return GgufSources(tensor, /*moe=*/true, json.value("n_routed_experts", int64_t{0}));
}

absl::StatusOr<nlohmann::json> GgufToConfig(const Gguf& gguf) {
  GgufConfig config(gguf, "glm4moe");
  nlohmann::json json = config.TransformersFields();
  json["model_type"] = "glm4_moe";
  json["moe_intermediate_size"] = config.Int("expert_feed_forward_length");
  json["n_routed_experts"] = config.Int("expert_count");
  json["num_experts_per_tok"] = config.Int("expert_used_count");
  json["n_shared_experts"] = config.Int("expert_shared_count", 1);
  json["n_group"] = config.Int("expert_group_count", 1);
  json["topk_group"] = config.Int("expert_group_used_count", 1);
  json["first_k_dense_replace"] = config.Int("leading_dense_block_count", 1);
  json["norm_topk_prob"] = config.Int("expert_weights_norm", 1) != 0;
  json["routed_scaling_factor"] = config.Number("expert_weights_scale", 1);
  json["use_qk_norm"] = gguf.Find("blk.0.attn_q_norm.weight") != nullptr;
  if (!config.status().ok()) return config.status();
  return json;
}

bool Matches(const nlohmann::json& json) { return json.value("model_type", "") == "glm4_moe"; }

absl::StatusOr<std::unique_ptr<Model>> Create(const nlohmann::json& json, const ModelFile& file) {
  absl::StatusOr<Config> config = ReadConfig(json);
  if (!config.ok()) return config.status();
  return std::make_unique<Glm4Moe>(*std::move(config), file);
}

}  // namespace

const ModelFamily kGlm4MoeFamily = {"glm4-moe", Matches,   Describe,    Create,
                                    Sources,    "glm4moe", GgufToConfig};

}  // namespace qianyi
