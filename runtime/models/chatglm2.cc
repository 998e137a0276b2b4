// ChatGLM2-6B, ChatGLM3-6B and GLM-4-9B in their original names: pre-norm RMSNorm, grouped
// queries, interleaved rotary positions on the first half of each head, SwiGLU, causal.
// zai-org/ChatGLM2-6B, zai-org/ChatGLM3, zai-org/GLM-4.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "runtime/models/aliases.h"
#include "runtime/models/gguf_config.h"
#include "runtime/models/pre_norm.h"
#include "runtime/models/registry.h"
#include "runtime/models/sources.h"

namespace qianyi {
namespace {

struct Config {
  PreNormConfig base;
  GroupedQueries queries;
  int64_t by_head = 0;  // TensorSpec::by_head of query_key_value
};

absl::StatusOr<Config> ReadConfig(const nlohmann::json& json) {
  ConfigReader reader(json);
  PreNormConfig c;
  c.layers = reader.Int("num_layers", 1, 1024);
  c.hidden = reader.Int("hidden_size", 1, 1 << 17);
  c.ffn = reader.Int("ffn_hidden_size", 1, 1 << 19);
  c.vocab = reader.Int("padded_vocab_size", 1, 1 << 24);
  c.positions = reader.Int("seq_length", 1, 1 << 24);
  c.epsilon = static_cast<float>(reader.Number("layernorm_epsilon", 0, 1, 1e-5));
  c.end_tokens = reader.Ids("eos_token_id", c.vocab, {});
  c.embedding = "transformer.embedding.word_embeddings.weight";
  c.final_norm = "transformer.encoder.final_layernorm.weight";
  c.head = "transformer.output_layer.weight";
  GroupedQueries q;
  q.heads = reader.Int("num_attention_heads", 1, 1024);
  const bool grouped = reader.Bool("multi_query_attention", true);
  q.groups = grouped ? reader.Int("multi_query_group_num", 1, 1024) : q.heads;
  q.head_dim = reader.Int("kv_channels", 4, 1024);
  q.bias = reader.Bool("add_qkv_bias", true);
  c.rope = {1e4 * reader.Number("rope_ratio", 1e-3, 1e9, 1.0), q.head_dim / 2};
  reader.MustBe("rmsnorm", true);
  reader.MustBe("post_layer_norm", true);
  reader.MustBe("add_bias_linear", false);
  reader.MustBe("apply_residual_connection_post_layernorm", false);
  reader.MustBe("tie_word_embeddings", false);
  reader.MustBe("original_rope", true);
  if (reader.status().ok()) {
    reader.Require(q.heads % q.groups == 0,
                   "num_attention_heads must be a multiple of multi_query_group_num");
    reader.Require(q.head_dim % 4 == 0, "kv_channels must be a multiple of 4");
  }
  if (!reader.status().ok()) return reader.status();
  // Without groups the original has q, k and v of one head after the other.
  return Config{std::move(c), q, grouped ? 0 : q.head_dim};
}

std::string Layer(int64_t layer, const char* name) {
  return absl::StrCat("transformer.encoder.layers.", layer, ".", name);
}

void ListAttention(const Config& c, int64_t layer, TensorLister& list) {
  const GroupedQueries& q = c.queries;
  const int64_t hidden = c.base.hidden;
  list.Constant(Layer(layer, "input_layernorm.weight"), {hidden});
  list.Linear(Layer(layer, "self_attention.query_key_value"), q.qkv_cols(), hidden, q.bias,
              c.by_head);
  list.Linear(Layer(layer, "self_attention.dense"), hidden, q.query_cols(), false);
  NameAttentionParts({.layer = Layer(layer, "self_attention."),
                      .sat = absl::StrCat("transformer.layers.", layer, ".attention."),
                      .q = {0, q.query_cols()},
                      .k = {q.query_cols(), q.group_cols()},
                      .v = {q.query_cols() + q.group_cols(), q.group_cols()},
                      .out_rows = hidden},
                     &list.spec().aliases);
}

absl::StatusOr<ModelSpec> Describe(const nlohmann::json& json) {
  absl::StatusOr<Config> config = ReadConfig(json);
  if (!config.ok()) return config.status();
  const Config& c = *config;
  const int64_t hidden = c.base.hidden, ffn = c.base.ffn;
  ModelSpec spec;
  spec.family = "chatglm2";
  TensorLister list(&spec);
  const auto mlp = [&](int64_t i) {
    list.Constant(Layer(i, "post_attention_layernorm.weight"), {hidden});
    list.Linear(Layer(i, "mlp.dense_h_to_4h"), 2 * ffn, hidden, false);
    list.Linear(Layer(i, "mlp.dense_4h_to_h"), hidden, ffn, false);
  };
  ListPreNorm(
      c.base, [&](int64_t layer) { ListAttention(c, layer, list); }, mlp, list);
  SizeGroupedQueries(c.queries, &spec);
  return spec;
}

class ChatGlm2 : public PreNormModel {
 public:
  ChatGlm2(const Config& config, const ModelFile& file)
      : PreNormModel(config.base, file), config_(config) {
    for (int64_t i = 0; i < config_.base.layers; ++i) {
      layers_.push_back({
          .attention = {.input_norm = file.Find(Layer(i, "input_layernorm.weight")),
                        .q = FindLinear(file, Layer(i, "self_attention.query_key_value")),
                        .out = FindLinear(file, Layer(i, "self_attention.dense"))},
          .mlp_norm = file.Find(Layer(i, "post_attention_layernorm.weight")),
          .up = FindLinear(file, Layer(i, "mlp.dense_h_to_4h")),
          .down = FindLinear(file, Layer(i, "mlp.dense_4h_to_h")),
      });
    }
  }

 private:
  struct LayerWeights {
    GroupedWeights attention;
    int mlp_norm;
    Projection up, down;
  };

  absl::Status Attention(int layer, const Step& step, Pass& pass) const override {
    const GroupedWeights& w = layers_[layer].attention;
    Tensor attended;
    if (auto status = AttendGrouped(config_.queries, w, layer, step, pass, &attended);
        !status.ok()) {
      return status;
    }
    return pass.Linear(w.out, attended, pass.hidden(), pass.hidden());
  }

  absl::Status Mlp(int layer, Pass& pass) const override {
    const LayerWeights& w = layers_[layer];
    Tensor gated;
    if (auto status = GatedUp(w.mlp_norm, w.up, config_.base.ffn, pass, &gated); !status.ok()) {
      return status;
    }
    return pass.Linear(w.down, gated, pass.hidden(), pass.hidden());
  }

  const Config config_;
  std::vector<LayerWeights> layers_;
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
    return {Stacked({{sat + rest, config->base.ffn},
                     {absl::StrCat("mixins.mlp.w2.", layer, ".weight"), config->base.ffn}}),
            Renamed(tensor, gguf + "ffn_up.weight")};
  }
  for (const char* what : {"weight", "bias"}) {
    if (rest != absl::StrCat("self_attention.query_key_value.", what)) continue;
    return {Renamed(tensor, absl::StrCat(sat, "attention.query_key_value.", what)),
            Renamed(tensor, absl::StrCat(gguf, "attn_qkv.", what)),
            Stacked({{absl::StrCat(gguf, "attn_q.", what), config->queries.query_cols()},
                     {absl::StrCat(gguf, "attn_k.", what), config->queries.group_cols()},
                     {absl::StrCat(gguf, "attn_v.", what), config->queries.group_cols()}})};
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

// Published shapes.
constexpr BuiltinShape kShapes[] = {
    {"chatglm2-6b",
     R"({"model_type":"chatglm","num_layers":28,"hidden_size":4096,"ffn_hidden_size":13696,)"
     R"("num_attention_heads":32,"multi_query_attention":true,"multi_query_group_num":2,)"
     R"("kv_channels":128,"padded_vocab_size":65024,"seq_length":32768,)"
     R"("layernorm_epsilon":1e-5,"add_qkv_bias":true,"eos_token_id":2})"},
    {"glm-4-9b",
     R"({"model_type":"chatglm","num_layers":40,"hidden_size":4096,"ffn_hidden_size":13696,)"
     R"("num_attention_heads":32,"multi_query_attention":true,"multi_query_group_num":2,)"
     R"("kv_channels":128,"padded_vocab_size":151552,"seq_length":131072,)"
     R"("layernorm_epsilon":1.5625e-7,"rope_ratio":500,"add_qkv_bias":true,)"
     R"("eos_token_id":[151329,151336,151338]})"},
};

// By the size of the vocabulary. The 32k models of both older versions have one config;
// ChatGLM3-6B's own context is shorter.
std::string_view ChatFormatName(const nlohmann::json& json) {
  const auto number = [&](const char* field) -> int64_t {
    const auto at = json.find(field);
    return at != json.end() && at->is_number_integer() ? at->get<int64_t>() : 0;
  };
  if (number("padded_vocab_size") >= 100000) return "glm4";
  const bool third =
      CheckpointName(json).find("chatglm3") != std::string::npos || number("seq_length") == 8192;
  return third ? "chatglm3" : "chatglm2";
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

extern const ModelFamily kChatGlm2Family = {.name = "chatglm2",
                                            .matches = Matches,
                                            .describe = Describe,
                                            .create = Create,
                                            .sources = Sources,
                                            .gguf_architecture = "chatglm",
                                            .config_from_gguf = GgufToConfig,
                                            .chat_format = ChatFormatName,
                                            .shapes = kShapes};

}  // namespace qianyi
