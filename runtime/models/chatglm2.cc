// ChatGLM2-6B, ChatGLM3-6B and GLM-4-9B in their original names: pre-norm RMSNorm, grouped
// queries, interleaved rotary positions on the first half of each head, SwiGLU, causal.
// zai-org/ChatGLM2-6B, zai-org/ChatGLM3, zai-org/GLM-4.
#include "runtime/models/chatglm2.h"

#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "runtime/models/aliases.h"
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
  double rope_base;
  bool qkv_bias;
  std::vector<int32_t> end_tokens;

  int64_t query_cols() const { return heads * head_dim; }
  int64_t group_cols() const { return groups * head_dim; }
  int64_t qkv_cols() const { return query_cols() + 2 * group_cols(); }
};

absl::StatusOr<Config> ReadConfig(const nlohmann::json& json) {
  ConfigReader reader(json);
  Config c;
  c.layers = reader.Int("num_layers", 1, 1024);
  c.hidden = reader.Int("hidden_size", 1, 1 << 17);
  c.ffn = reader.Int("ffn_hidden_size", 1, 1 << 19);
  c.heads = reader.Int("num_attention_heads", 1, 1024);
  c.groups = reader.Bool("multi_query_attention", true)
                 ? reader.Int("multi_query_group_num", 1, 1024)
                 : c.heads;
  c.head_dim = reader.Int("kv_channels", 4, 1024);
  c.vocab = reader.Int("padded_vocab_size", 1, 1 << 24);
  c.positions = reader.Int("seq_length", 1, 1 << 24);
  c.epsilon = static_cast<float>(reader.Number("layernorm_epsilon", 0, 1, 1e-5));
  c.rope_base = 1e4 * reader.Number("rope_ratio", 1e-3, 1e9, 1.0);
  c.qkv_bias = reader.Bool("add_qkv_bias", true);
  c.end_tokens = reader.Ids("eos_token_id", c.vocab, {});
  reader.MustBe("rmsnorm", true);
  reader.MustBe("post_layer_norm", true);
  reader.MustBe("add_bias_linear", false);
  reader.MustBe("apply_residual_connection_post_layernorm", false);
  reader.MustBe("tie_word_embeddings", false);
  reader.MustBe("original_rope", true);
  if (reader.status().ok()) {
    reader.Require(c.heads % c.groups == 0,
                   "num_attention_heads must be a multiple of multi_query_group_num");
    reader.Require(c.head_dim % 4 == 0, "kv_channels must be a multiple of 4");
  }
  if (!reader.status().ok()) return reader.status();
  return c;
}

std::string Layer(int64_t layer, const char* name) {
  return absl::StrCat("transformer.encoder.layers.", layer, ".", name);
}

absl::StatusOr<ModelSpec> Describe(const nlohmann::json& json) {
  absl::StatusOr<Config> config = ReadConfig(json);
  if (!config.ok()) return config.status();
  const Config& c = *config;
  ModelSpec spec;
  spec.family = "chatglm2";
  auto add = [&](std::string name, std::vector<int64_t> shape, TensorUse use) {
    spec.tensors.push_back(
        {std::move(name), std::move(shape), use, static_cast<int>(spec.units.size()) - 1});
  };
  spec.units.push_back("embedding");
  add("transformer.embedding.word_embeddings.weight", {c.vocab, c.hidden}, TensorUse::kEmbedding);
  for (int64_t i = 0; i < c.layers; ++i) {
    spec.units.push_back(absl::StrCat("attention ", i));
    add(Layer(i, "input_layernorm.weight"), {c.hidden}, TensorUse::kConstant);
    if (c.qkv_bias) {
      add(Layer(i, "self_attention.query_key_value.bias"), {c.qkv_cols()}, TensorUse::kConstant);
    }
    add(Layer(i, "self_attention.query_key_value.weight"), {c.qkv_cols(), c.hidden},
        TensorUse::kMatrix);
    add(Layer(i, "self_attention.dense.weight"), {c.hidden, c.query_cols()}, TensorUse::kMatrix);
    NameAttentionParts({.layer = absl::StrCat("transformer.encoder.layers.", i, ".self_attention."),
                        .sat = absl::StrCat("transformer.layers.", i, ".attention."),
                        .q = {0, c.query_cols()},
                        .k = {c.query_cols(), c.group_cols()},
                        .v = {c.query_cols() + c.group_cols(), c.group_cols()},
                        .out_rows = c.hidden},
                       &spec.aliases);
    spec.units.push_back(absl::StrCat("mlp ", i));
    add(Layer(i, "post_attention_layernorm.weight"), {c.hidden}, TensorUse::kConstant);
    add(Layer(i, "mlp.dense_h_to_4h.weight"), {2 * c.ffn, c.hidden}, TensorUse::kMatrix);
    add(Layer(i, "mlp.dense_4h_to_h.weight"), {c.hidden, c.ffn}, TensorUse::kMatrix);
  }
  spec.units.push_back("head");
  add("transformer.encoder.final_layernorm.weight", {c.hidden}, TensorUse::kConstant);
  add("transformer.output_layer.weight", {c.vocab, c.hidden}, TensorUse::kMatrix);
  spec.kv = {static_cast<int>(c.layers), c.groups, c.head_dim, c.head_dim};
  spec.hidden_size = c.hidden;
  spec.attention_cols = c.query_cols();
  spec.widest_row = std::max(c.qkv_cols(), 2 * c.ffn);
  spec.rotary_dims = c.head_dim / 2;
  spec.vocab_size = c.vocab;
  spec.max_positions = c.positions;
  return spec;
}

class ChatGlm2 : public CausalModel {
 public:
  ChatGlm2(Config config, const ModelFile& file)
      : CausalModel(file.spec, config.end_tokens),
        config_(std::move(config)),
        frequencies_(RopeFrequencies(config_.rope_base, config_.head_dim / 2)) {
    embedding_ = file.Find("transformer.embedding.word_embeddings.weight");
    for (int64_t i = 0; i < config_.layers; ++i) {
      layers_.push_back({
          .input_norm = file.Find(Layer(i, "input_layernorm.weight")),
          .qkv = {file.Find(Layer(i, "self_attention.query_key_value.weight")),
                  file.Find(Layer(i, "self_attention.query_key_value.bias"))},
          .dense = {file.Find(Layer(i, "self_attention.dense.weight"))},
          .mlp_norm = file.Find(Layer(i, "post_attention_layernorm.weight")),
          .up = {file.Find(Layer(i, "mlp.dense_h_to_4h.weight"))},
          .down = {file.Find(Layer(i, "mlp.dense_4h_to_h.weight"))},
      });
    }
    final_norm_ = file.Find("transformer.encoder.final_layernorm.weight");
    head_ = {file.Find("transformer.output_layer.weight")};
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
    Projection qkv, dense;
    int mlp_norm;
    Projection up, down;
  };

  void Norm(Tensor x, int weight, Tensor out, Pass& pass) const {
    pass.backend().rms_norm(
        {.x = x, .weight = pass.constant(weight), .epsilon = config_.epsilon, .out = out},
        pass.stream());
  }

  absl::Status Attention(int layer, const Step& step, Pass& pass) const {
    const LayerWeights& w = layers_[layer];
    const Tensor x = pass.hidden();
    const Tensor normed = pass.narrow(config_.hidden);
    const Tensor qkv = pass.wide(config_.qkv_cols());
    Norm(x, w.input_norm, normed, pass);
    if (auto status = pass.Linear(w.qkv, normed, qkv); !status.ok()) return status;
    const Tensor q = qkv.Columns(0, config_.query_cols());
    const Tensor k = qkv.Columns(config_.query_cols(), config_.group_cols());
    const Tensor v = qkv.Columns(config_.query_cols() + config_.group_cols(), config_.group_cols());
    pass.Rope(q, config_.heads, config_.head_dim, 0, RopePairs::kInterleaved);
    pass.Rope(k, config_.groups, config_.head_dim, 0, RopePairs::kInterleaved);
    const Tensor attended = pass.narrow(config_.query_cols());
    const float scale = 1.0f / std::sqrt(static_cast<float>(config_.head_dim));
    pass.Attend(step, layer, q, k, v, config_.heads, scale, attended);
    return pass.Linear(w.dense, attended, x, x);
  }

  absl::Status Mlp(int layer, Pass& pass) const {
    const LayerWeights& w = layers_[layer];
    const Tensor x = pass.hidden();
    const Tensor normed = pass.narrow(config_.hidden);
    const Tensor up = pass.wide(2 * config_.ffn);
    Norm(x, w.mlp_norm, normed, pass);
    if (auto status = pass.Linear(w.up, normed, up); !status.ok()) return status;
    const Tensor gated = up.Columns(0, config_.ffn);
    pass.backend().gated_activate({.kind = Activation::kSilu,
                                   .gate = gated,
                                   .value = up.Columns(config_.ffn, config_.ffn),
                                   .out = gated},
                                  pass.stream());
    return pass.Linear(w.down, gated, x, x);
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

// SwissArmyTransformer's names and GGUF's (architecture "chatglm"), whose converter keeps fused
// matrices fused when the checkpoint has them so.
std::vector<SourceParts> OtherLayouts(const nlohmann::json& json, const TensorSpec& tensor) {
  const absl::StatusOr<Config> config = ReadConfig(json);
  if (!config.ok()) return {};
  if (tensor.name == "transformer.embedding.word_embeddings.weight") {
    return {Renamed(tensor, "transformer.word_embeddings.weight"),
            Renamed(tensor, "token_embd.weight")};
  }
  if (tensor.name == "transformer.encoder.final_layernorm.weight") {
    return {Renamed(tensor, "transformer.final_layernorm.weight"),
            Renamed(tensor, "output_norm.weight")};
  }
  if (tensor.name == "transformer.output_layer.weight") {
    return {Renamed(tensor, "mixins.chatglm-final.lm_head.weight"),
            Renamed(tensor, "output.weight"), Renamed(tensor, "token_embd.weight")};
  }
  const auto [layer, rest] = SplitLayer(tensor.name, "transformer.encoder.layers.");
  const std::string sat = absl::StrCat("transformer.layers.", layer, ".");
  const std::string gguf = absl::StrCat("blk.", layer, ".");
  if (rest == "mlp.dense_h_to_4h.weight") {
    return {Stacked({{sat + rest, config->ffn},
                     {absl::StrCat("mixins.mlp.w2.", layer, ".weight"), config->ffn}}),
            Renamed(tensor, gguf + "ffn_up.weight")};
  }
  for (const char* what : {"weight", "bias"}) {
    if (rest != absl::StrCat("self_attention.query_key_value.", what)) continue;
    return {Renamed(tensor, absl::StrCat(sat, "attention.query_key_value.", what)),
            Renamed(tensor, absl::StrCat(gguf, "attn_qkv.", what)),
            Stacked({{absl::StrCat(gguf, "attn_q.", what), config->query_cols()},
                     {absl::StrCat(gguf, "attn_k.", what), config->group_cols()},
                     {absl::StrCat(gguf, "attn_v.", what), config->group_cols()}})};
  }
  static constexpr const char* kRenamed[][3] = {
      {"input_layernorm.weight", "input_layernorm.weight", "attn_norm.weight"},
      {"self_attention.dense.weight", "attention.dense.weight", "attn_output.weight"},
      {"post_attention_layernorm.weight", "post_attention_layernorm.weight", "ffn_norm.weight"},
      {"mlp.dense_4h_to_h.weight", "mlp.dense_4h_to_h.weight", "ffn_down.weight"}};
  for (const auto& [own, in_sat, in_gguf] : kRenamed) {
    if (rest == own) return {Renamed(tensor, sat + in_sat), Renamed(tensor, gguf + in_gguf)};
  }
  return {};
}

absl::StatusOr<nlohmann::json> GgufToConfig(const Gguf& gguf) {
  GgufConfig config(gguf, "chatglm");
  const int64_t hidden = config.Int("embedding_length"), heads = config.Int("attention.head_count");
  const int64_t head_dim = config.Int("attention.key_length", heads > 0 ? hidden / heads : 0);
  config.Require("rope.dimension_count", head_dim / 2);
  if (!config.status().ok()) return config.status();
  const bool bias = gguf.Find("blk.0.attn_qkv.bias") || gguf.Find("blk.0.attn_q.bias");
  nlohmann::json json = {
      {"model_type", "chatglm"},
      {"num_layers", config.Int("block_count")},
      {"hidden_size", hidden},
      {"ffn_hidden_size", config.Int("feed_forward_length")},
      {"num_attention_heads", heads},
      {"multi_query_attention", true},
      {"multi_query_group_num", config.Int("attention.head_count_kv", heads)},
      {"kv_channels", head_dim},
      {"padded_vocab_size", config.VocabSize()},
      {"seq_length", config.Int("context_length")},
      {"layernorm_epsilon", config.Number("attention.layer_norm_rms_epsilon", 1e-5)},
      {"rope_ratio", config.Number("rope.freq_base", 1e4) / 1e4},
      {"add_qkv_bias", bias},
      {"eos_token_id", config.EndTokens()},
      {"_name_or_path", gguf.Text("general.name")}};
  if (!config.status().ok()) return config.status();
  return json;
}

TensorSources Sources(const nlohmann::json& json, const TensorSpec& tensor) {
  return {RankSplit::kWhole, OtherLayouts(json, tensor)};
}

bool Matches(const nlohmann::json& json) {
  return json.value("model_type", "") == "chatglm" && json.contains("ffn_hidden_size");
}

absl::StatusOr<std::unique_ptr<Model>> Create(const nlohmann::json& json, const ModelFile& file) {
  absl::StatusOr<Config> config = ReadConfig(json);
  if (!config.ok()) return config.status();
  return std::make_unique<ChatGlm2>(*std::move(config), file);
}

}  // namespace

const ModelFamily kChatGlm2Family = {"chatglm2", Matches,   Describe,    Create,
                                     Sources,    "chatglm", GgufToConfig};

}  // namespace qianyi
