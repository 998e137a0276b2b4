// GLM-4.7-Flash in the names of transformers' Glm4MoeLite: attention over a latent, then experts
// beside a shared one. zai-org/GLM-4.7-Flash; DeepSeek-AI 2024, arXiv:2405.04434. The layer that
// predicts a second token is stored and not run.
#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "runtime/models/expert_model.h"
#include "runtime/models/registry.h"

namespace qianyi {
namespace {

constexpr float kLatentEpsilon = 1e-6f;  // of the norms of latents, whatever rms_norm_eps is

struct Config {
  ExpertModelConfig model;
  int64_t heads;
  int64_t query_rank;                        // 0: queries come from the hidden state itself
  int64_t rank;                              // of the latent that keys and values are made of
  int64_t plain_dim, rotary_dim, value_dim;  // of a head
  bool bias, interleaved;

  int64_t query_dim() const { return plain_dim + rotary_dim; }
  int64_t key_dim() const { return rank + rotary_dim; }  // as it is cached
  // Columns of the scratch row: the key, queries, and the larger of what comes before and behind
  // attention.
  int64_t queries_at() const { return key_dim(); }
  int64_t latent_at() const { return queries_at() + heads * query_dim(); }
  int64_t attention_row() const {
    return latent_at() + std::max({heads * key_dim(), query_rank, heads * value_dim});
  }
};

// mlp_layer_types, where it is given, in place of first_k_dense_replace.
void ReadDense(const nlohmann::json& json, ConfigReader& reader, std::vector<bool>* dense) {
  const auto types = json.find("mlp_layer_types");
  if (types == json.end() || types->is_null()) return;
  bool fits = types->is_array() && types->size() == dense->size();
  for (size_t i = 0; fits && i < dense->size(); ++i) {
    const nlohmann::json& type = (*types)[i];
    fits = type == "dense" || type == "sparse";
    (*dense)[i] = type == "dense";
  }
  reader.Require(fits, "mlp_layer_types must have one of dense and sparse for each layer");
}

absl::StatusOr<Config> ReadConfig(const nlohmann::json& json) {
  ConfigReader reader(json);
  Config c;
  c.model = ReadExpertModel(reader);
  c.heads = reader.Int("num_attention_heads", 1, 1024);
  c.query_rank = reader.Int("q_lora_rank", 1, 1 << 17, 0);
  c.rank = reader.Int("kv_lora_rank", 16, 1 << 14);
  c.plain_dim = reader.Int("qk_nope_head_dim", 1, 4096);
  c.rotary_dim = reader.Int("qk_rope_head_dim", 2, 4096);
  c.value_dim = reader.Int("v_head_dim", 16, 4096);
  c.model.base.rope = ReadRope(json, c.rotary_dim, 1.0, reader);
  c.bias = reader.Bool("attention_bias", false);
  c.interleaved = reader.Bool("rope_interleave", true);
  if (!reader.status().ok()) return reader.status();
  ReadDense(json, reader, &c.model.dense);
  CheckExpertModel(c.model, reader);
  reader.Require(c.model.base.rope.dims == c.rotary_dim, "partial_rotary_factor must be 1");
  reader.Require(c.rank % kPanelRows == 0 && c.value_dim % kPanelRows == 0,
                 "kv_lora_rank and v_head_dim must be multiples of 16");
  if (!reader.status().ok()) return reader.status();
  return c;
}

std::string Name(int64_t layer, const char* name) {
  return LayerTensor(layer, absl::StrCat("self_attn.", name));
}

// kv_b_proj makes a head's keys and values of the latent. What it does to keys is done to queries
// instead, transposed, and what it does to values to their weighted sum.
void ListHalves(const Config& c, int64_t layer, TensorLister& list) {
  const std::string whole = Name(layer, "kv_b_proj.weight");
  const int64_t head_rows = c.plain_dim + c.value_dim;
  list.Matrix(whole + ".keys", c.heads * c.rank, c.plain_dim).slice = {
      whole, c.heads, head_rows, 0, c.plain_dim, true};
  list.Matrix(whole + ".values", c.heads * c.value_dim, c.rank).slice = {
      whole, c.heads, head_rows, c.plain_dim, c.value_dim, false};
}

void ListAttention(const Config& c, int64_t layer, TensorLister& list) {
  const int64_t hidden = c.model.base.hidden, queries = c.heads * c.query_dim();
  list.Constant(LayerTensor(layer, "input_layernorm.weight"), {hidden});
  if (c.query_rank > 0) {
    list.Linear(Name(layer, "q_a_proj"), c.query_rank, hidden, c.bias);
    list.Constant(Name(layer, "q_a_layernorm.weight"), {c.query_rank});
    list.Linear(Name(layer, "q_b_proj"), queries, c.query_rank, false);
  } else {
    list.Linear(Name(layer, "q_proj"), queries, hidden, false);
  }
  list.Linear(Name(layer, "kv_a_proj_with_mqa"), c.key_dim(), hidden, c.bias);
  list.Constant(Name(layer, "kv_a_layernorm.weight"), {c.rank});
  ListHalves(c, layer, list);
  list.Linear(Name(layer, "o_proj"), hidden, c.heads * c.value_dim, c.bias);
}

absl::StatusOr<ModelSpec> Describe(const nlohmann::json& json) {
  absl::StatusOr<Config> config = ReadConfig(json);
  if (!config.ok()) return config.status();
  const Config& c = *config;
  ModelSpec spec;
  spec.family = "glm4-moe-lite";
  TensorLister list(&spec);
  ListExpertModel(
      c.model, [&](int64_t layer) { ListAttention(c, layer, list); }, list);
  const int layers = static_cast<int>(c.model.base.layers);
  spec.kv = {layers, 1, c.key_dim(), c.rank, /*values_in_keys=*/true};
  spec.attention_cols = c.heads * c.rank;
  spec.widest_row = std::max(spec.widest_row, c.attention_row());
  return spec;
}

class Glm4MoeLite : public ExpertModel {
 public:
  Glm4MoeLite(const Config& config, const ModelFile& file)
      : ExpertModel(config.model, file), config_(config) {
    for (int64_t i = 0; i < config_.model.base.layers; ++i) {
      layers_.push_back({
          .input_norm = file.Find(LayerTensor(i, "input_layernorm.weight")),
          .query_down = FindLinear(file, Name(i, "q_a_proj")),
          .query_norm = file.Find(Name(i, "q_a_layernorm.weight")),
          .query = FindLinear(file, Name(i, config_.query_rank > 0 ? "q_b_proj" : "q_proj")),
          .key = FindLinear(file, Name(i, "kv_a_proj_with_mqa")),
          .key_norm = file.Find(Name(i, "kv_a_layernorm.weight")),
          .keys_of_latent = file.Find(Name(i, "kv_b_proj.weight.keys")),
          .values_of_latent = file.Find(Name(i, "kv_b_proj.weight.values")),
          .out = FindLinear(file, Name(i, "o_proj")),
      });
    }
  }

 private:
  struct LayerWeights {
    int input_norm;
    Projection query_down;  // none without a latent of queries
    int query_norm;
    Projection query, key;
    int key_norm;
    int keys_of_latent, values_of_latent;
    Projection out;
  };

  void NormLatent(Tensor x, int weight, Pass& pass) const {
    pass.backend().rms_norm(
        {.x = x, .weight = pass.constant(weight), .epsilon = kLatentEpsilon, .out = x},
        pass.stream());
  }

  absl::Status Queries(const LayerWeights& w, Tensor normed, Tensor latent, Tensor queries,
                       Pass& pass) const {
    if (config_.query_rank == 0) return pass.Linear(w.query, normed, queries);
    if (auto status = pass.Linear(w.query_down, normed, latent); !status.ok()) return status;
    NormLatent(latent, w.query_norm, pass);
    return pass.Linear(w.query, latent, queries);
  }

  // A token's key, which all heads share, is its latent and a rotated part; its value is the
  // latent.
  absl::Status Attention(int layer, const Step& step, Pass& pass) const override {
    const LayerWeights& w = layers_[layer];
    const Config& c = config_;
    const Tensor x = pass.hidden(), normed = pass.narrow(c.model.base.hidden);
    const Tensor row = pass.wide(c.attention_row());
    const Tensor key = row.Columns(0, c.key_dim());
    const Tensor queries = row.Columns(c.queries_at(), c.heads * c.query_dim());
    const Tensor absorbed = row.Columns(c.latent_at(), c.heads * c.key_dim());
    Norm(x, w.input_norm, normed, pass);
    auto status = Queries(w, normed, row.Columns(c.latent_at(), c.query_rank), queries, pass);
    if (status.ok()) status = pass.Linear(w.key, normed, key);
    if (!status.ok()) return status;
    const Tensor latent = key.Columns(0, c.rank);
    NormLatent(latent, w.key_norm, pass);
    const RopePairs pairs = c.interleaved ? RopePairs::kInterleaved : RopePairs::kHalfSplit;
    pass.Rope(queries, c.heads, c.query_dim(), c.plain_dim, pairs);
    pass.Rope(key, 1, c.key_dim(), c.rank, pairs);
    status = pass.LinearByHead(w.keys_of_latent, c.heads,
                               {.x = queries,
                                .out = absorbed,
                                .x_stride = c.query_dim(),
                                .x_cols = c.plain_dim,
                                .out_stride = c.key_dim()});
    if (!status.ok()) return status;
    for (int64_t h = 0; h < c.heads; ++h) {
      const int64_t from = h * c.query_dim() + c.plain_dim, to = h * c.key_dim() + c.rank;
      pass.backend().copy_rows({.x = queries.Columns(from, c.rotary_dim),
                                .ids = nullptr,
                                .out = absorbed.Columns(to, c.rotary_dim)},
                               pass.stream());
    }
    const Tensor attended = pass.narrow(c.heads * c.rank);
    const float scale = 1.0f / std::sqrt(static_cast<float>(c.query_dim()));
    pass.Attend(step, layer, absorbed, key, {}, c.heads, scale, attended);
    const Tensor values = row.Columns(c.latent_at(), c.heads * c.value_dim);
    status = pass.LinearByHead(w.values_of_latent, c.heads,
                               {.x = attended,
                                .out = values,
                                .x_stride = c.rank,
                                .x_cols = c.rank,
                                .out_stride = c.value_dim});
    return status.ok() ? pass.Linear(w.out, values, x, x) : status;
  }

  const Config config_;
  std::vector<LayerWeights> layers_;
};

// Published shapes.
constexpr BuiltinShape kShapes[] = {
    {"glm-4.7-flash",
     R"({"model_type":"glm4_moe_lite","num_hidden_layers":47,"hidden_size":2048,)"
     R"("intermediate_size":10240,"num_attention_heads":20,"q_lora_rank":768,"kv_lora_rank":512,)"
     R"("qk_nope_head_dim":192,"qk_rope_head_dim":64,"v_head_dim":256,"vocab_size":154880,)"
     R"("max_position_embeddings":202752,"rms_norm_eps":1e-5,"rope_theta":1000000,)"
     R"("first_k_dense_replace":1,"n_routed_experts":64,"num_experts_per_tok":4,)"
     R"("n_shared_experts":1,"moe_intermediate_size":1536,"n_group":1,"topk_group":1,)"
     R"("norm_topk_prob":true,"routed_scaling_factor":1.8,)"
     R"("eos_token_id":[154820,154827,154829]})"},
};

std::string_view ChatFormatName(const nlohmann::json&) { return "glm4.7"; }

bool Matches(const nlohmann::json& json) { return json.value("model_type", "") == "glm4_moe_lite"; }

absl::StatusOr<std::unique_ptr<Model>> Create(const nlohmann::json& json, const ModelFile& file) {
  absl::StatusOr<Config> config = ReadConfig(json);
  if (!config.ok()) return config.status();
  return std::make_unique<Glm4MoeLite>(*std::move(config), file);
}

}  // namespace

extern const ModelFamily kGlm4MoeLiteFamily = {.name = "glm4-moe-lite",
                                               .matches = Matches,
                                               .describe = Describe,
                                               .create = Create,
                                               .chat_format = ChatFormatName,
                                               .shapes = kShapes};

}  // namespace qianyi
