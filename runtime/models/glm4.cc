// GLM-4-9B and GLM-4-0414 in the names of transformers' Glm and Glm4: pre-norm RMSNorm, grouped
// queries, interleaved rotary positions on the first part of each head, SwiGLU, causal. Glm4 norms
// what attention and MLP add as well. zai-org/glm-4-9b-chat-hf, zai-org/GLM-4-32B-0414.
#include "runtime/models/glm4.h"

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
#include "runtime/models/gguf_config.h"
#include "runtime/models/sources.h"
#include "runtime/storage/model_file.h"

namespace qianyi {
namespace {

struct Config {
  int64_t layers, hidden, ffn, heads, groups, head_dim, vocab, positions;
  float epsilon;
  RopeConfig rope;
  bool qkv_bias, tied, sandwich;
  std::vector<int32_t> end_tokens;

  int64_t query_cols() const { return heads * head_dim; }
  int64_t group_cols() const { return groups * head_dim; }
  int64_t qkv_cols() const { return query_cols() + 2 * group_cols(); }
};

absl::StatusOr<Config> ReadConfig(const nlohmann::json& json) {
  ConfigReader reader(json);
  Config c;
  c.sandwich = json.value("model_type", "") == "glm4";
  c.layers = reader.Int("num_hidden_layers", 1, 1024);
  c.hidden = reader.Int("hidden_size", 1, 1 << 17);
  c.ffn = reader.Int("intermediate_size", 1, 1 << 19);
  c.heads = reader.Int("num_attention_heads", 1, 1024);
  c.groups = reader.Int("num_key_value_heads", 1, 1024, c.heads);
  c.head_dim = reader.Int("head_dim", 2, 1024, std::max<int64_t>(2, c.hidden / c.heads));
  c.vocab = reader.Int("vocab_size", 1, 1 << 24);
  c.positions = reader.Int("max_position_embeddings", 1, 1 << 24);
  c.epsilon = static_cast<float>(reader.Number("rms_norm_eps", 0, 1, 1.5625e-7));
  c.rope = ReadRope(json, c.head_dim, 0.5, reader);
  c.qkv_bias = reader.Bool("attention_bias", true);
  c.tied = reader.Bool("tie_word_embeddings", false);
  c.end_tokens = reader.Ids("eos_token_id", c.vocab, {});
  reader.MustBe("hidden_act", "silu");
  if (!reader.status().ok()) return reader.status();
  reader.Require(c.heads % c.groups == 0,
                 "num_attention_heads must be a multiple of num_key_value_heads");
  if (!reader.status().ok()) return reader.status();
  return c;
}

std::string Layer(int64_t layer, const char* name) {
  return absl::StrCat("model.layers.", layer, ".", name);
}

absl::StatusOr<ModelSpec> Describe(const nlohmann::json& json) {
  absl::StatusOr<Config> config = ReadConfig(json);
  if (!config.ok()) return config.status();
  const Config& c = *config;
  ModelSpec spec;
  spec.family = c.sandwich ? "glm4" : "glm";
  auto add = [&](std::string name, std::vector<int64_t> shape, TensorUse use) -> TensorSpec& {
    spec.tensors.push_back(
        {std::move(name), std::move(shape), use, static_cast<int>(spec.units.size()) - 1});
    return spec.tensors.back();
  };
  auto add_norm = [&](std::string name) { add(std::move(name), {c.hidden}, TensorUse::kConstant); };
  spec.units.push_back("embedding");
  if (!c.tied) add("model.embed_tokens.weight", {c.vocab, c.hidden}, TensorUse::kEmbedding);
  for (int64_t i = 0; i < c.layers; ++i) {
    spec.units.push_back(absl::StrCat("attention ", i));
    add_norm(Layer(i, "input_layernorm.weight"));
    for (const char* part : {"q", "k", "v"}) {
      const int64_t rows = *part == 'q' ? c.query_cols() : c.group_cols();
      const std::string name = absl::StrCat(Layer(i, "self_attn."), part, "_proj.");
      if (c.qkv_bias) add(name + "bias", {rows}, TensorUse::kConstant);
      add(name + "weight", {rows, c.hidden}, TensorUse::kMatrix);
    }
    add(Layer(i, "self_attn.o_proj.weight"), {c.hidden, c.query_cols()}, TensorUse::kMatrix);
    if (c.sandwich) add_norm(Layer(i, "post_self_attn_layernorm.weight"));
    spec.units.push_back(absl::StrCat("mlp ", i));
    add_norm(Layer(i, "post_attention_layernorm.weight"));
    add(Layer(i, "mlp.gate_up_proj.weight"), {2 * c.ffn, c.hidden}, TensorUse::kMatrix);
    add(Layer(i, "mlp.down_proj.weight"), {c.hidden, c.ffn}, TensorUse::kMatrix);
    if (c.sandwich) add_norm(Layer(i, "post_mlp_layernorm.weight"));
  }
  spec.units.push_back("head");
  add_norm("model.norm.weight");
  if (c.tied) {
    add("model.embed_tokens.weight", {c.vocab, c.hidden}, TensorUse::kEmbedding).tied = true;
  } else {
    add("lm_head.weight", {c.vocab, c.hidden}, TensorUse::kMatrix);
  }
  spec.kv = {static_cast<int>(c.layers), c.groups, c.head_dim, c.head_dim};
  spec.hidden_size = c.hidden;
  spec.attention_cols = c.query_cols();
  spec.widest_row = std::max({c.qkv_cols(), 2 * c.ffn, c.hidden});
  spec.rotary_dims = c.rope.dims;
  spec.vocab_size = c.vocab;
  spec.max_positions = c.positions;
  return spec;
}

class Glm4 : public CausalModel {
 public:
  Glm4(Config config, const ModelFile& file)
      : CausalModel(file.spec, config.end_tokens),
        config_(std::move(config)),
        frequencies_(RopeFrequencies(config_.rope.base, config_.rope.dims)) {
    embedding_ = file.Find("model.embed_tokens.weight");
    const auto linear = [&](const std::string& name) {
      return Projection{file.Find(name + ".weight"), file.Find(name + ".bias")};
    };
    for (int64_t i = 0; i < config_.layers; ++i) {
      layers_.push_back({
          .input_norm = file.Find(Layer(i, "input_layernorm.weight")),
          .q = linear(Layer(i, "self_attn.q_proj")),
          .k = linear(Layer(i, "self_attn.k_proj")),
          .v = linear(Layer(i, "self_attn.v_proj")),
          .out = linear(Layer(i, "self_attn.o_proj")),
          .attention_norm = file.Find(Layer(i, "post_self_attn_layernorm.weight")),
          .mlp_norm = file.Find(Layer(i, "post_attention_layernorm.weight")),
          .up = linear(Layer(i, "mlp.gate_up_proj")),
          .down = linear(Layer(i, "mlp.down_proj")),
          .post_mlp_norm = file.Find(Layer(i, "post_mlp_layernorm.weight")),
      });
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
    Projection q, k, v, out;
    int attention_norm;  // -1: none
    int mlp_norm;
    Projection up, down;
    int post_mlp_norm;  // -1: none
  };

  void Norm(Tensor x, int weight, Tensor out, Pass& pass) const {
    pass.backend().rms_norm(
        {.x = x, .weight = pass.constant(weight), .epsilon = config_.epsilon, .out = out},
        pass.stream());
  }

  // hidden += x Wᵀ, or the norm of it.
  absl::Status AddLinear(Projection w, int norm, Tensor x, Tensor scratch, Pass& pass) const {
    const Tensor hidden = pass.hidden();
    if (norm < 0) return pass.Linear(w, x, hidden, hidden);
    if (auto status = pass.Linear(w, x, scratch); !status.ok()) return status;
    Norm(scratch, norm, scratch, pass);
    pass.backend().add_rows({.table = scratch, .ids = nullptr, .x = hidden}, pass.stream());
    return absl::OkStatus();
  }

  absl::Status Attention(int layer, const Step& step, Pass& pass) const {
    const LayerWeights& w = layers_[layer];
    const Config& c = config_;
    const Tensor normed = pass.narrow(c.hidden);
    const Tensor qkv = pass.wide(c.qkv_cols());
    const Tensor q = qkv.Columns(0, c.query_cols());
    const Tensor k = qkv.Columns(c.query_cols(), c.group_cols());
    const Tensor v = qkv.Columns(c.query_cols() + c.group_cols(), c.group_cols());
    Norm(pass.hidden(), w.input_norm, normed, pass);
    if (auto status = pass.Linear(w.q, normed, q); !status.ok()) return status;
    if (auto status = pass.Linear(w.k, normed, k); !status.ok()) return status;
    if (auto status = pass.Linear(w.v, normed, v); !status.ok()) return status;
    pass.Rope(q, c.heads, c.head_dim, 0, RopePairs::kInterleaved);
    pass.Rope(k, c.groups, c.head_dim, 0, RopePairs::kInterleaved);
    const Tensor attended = pass.narrow(c.query_cols());
    const float scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim));
    pass.Attend(step, layer, q, k, v, c.heads, scale, attended);
    return AddLinear(w.out, w.attention_norm, attended, pass.wide(c.hidden), pass);
  }

  absl::Status Mlp(int layer, Pass& pass) const {
    const LayerWeights& w = layers_[layer];
    const int64_t ffn = config_.ffn;
    const Tensor normed = pass.narrow(config_.hidden);
    const Tensor up = pass.wide(2 * ffn);
    Norm(pass.hidden(), w.mlp_norm, normed, pass);
    if (auto status = pass.Linear(w.up, normed, up); !status.ok()) return status;
    const Tensor gated = up.Columns(0, ffn);
    pass.backend().gated_activate(
        {.kind = Activation::kSilu, .gate = gated, .value = up.Columns(ffn, ffn), .out = gated},
        pass.stream());
    return AddLinear(w.down, w.post_mlp_norm, gated, normed, pass);
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

TensorSources Sources(const nlohmann::json&, const TensorSpec& tensor) {
  return GgufSources(tensor, /*moe=*/false);
}

absl::StatusOr<nlohmann::json> GgufToConfig(const Gguf& gguf) {
  GgufConfig config(gguf, "glm4");
  nlohmann::json json = config.TransformersFields();
  json["model_type"] = "glm4";
  if (gguf.Ints("glm4.rope.dimension_sections") != nullptr) {
    return absl::InvalidArgumentError(
        "has glm4.rope.dimension_sections, positions of pictures: only models of text can be run");
  }
  if (!config.status().ok()) return config.status();
  return json;
}

bool MatchesGlm(const nlohmann::json& json) {
  return json.value("model_type", "") == "glm" && json.contains("num_hidden_layers") &&
         !json.contains("max_sequence_length");
}
bool MatchesGlm4(const nlohmann::json& json) { return json.value("model_type", "") == "glm4"; }

absl::StatusOr<std::unique_ptr<Model>> Create(const nlohmann::json& json, const ModelFile& file) {
  absl::StatusOr<Config> config = ReadConfig(json);
  if (!config.ok()) return config.status();
  return std::make_unique<Glm4>(*std::move(config), file);
}

}  // namespace

const ModelFamily kGlmFamily = {"glm", MatchesGlm, Describe, Create};
const ModelFamily kGlm4Family = {"glm4",  MatchesGlm4, Describe,    Create,
                                 Sources, "glm4",      GgufToConfig};

}  // namespace qianyi
