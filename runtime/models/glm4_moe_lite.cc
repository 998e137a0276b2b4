// GLM-4.7-Flash in the names of transformers' Glm4MoeLite: attention over a latent, then experts
// beside a shared one. zai-org/GLM-4.7-Flash; DeepSeek-AI 2024, arXiv:2405.04434. The layer that
// predicts a second token is stored and not run.
#include "runtime/models/glm4_moe_lite.h"

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
#include "runtime/storage/model_file.h"

namespace qianyi {
namespace {

constexpr int64_t kMostExperts = 1 << 16;  // each is three tensors
constexpr float kLatentEpsilon = 1e-6f;    // of the norms of latents, whatever rms_norm_eps is
constexpr char kAttention[] = "self_attn.";

struct Config {
  int64_t layers, hidden, ffn, heads, vocab, positions, draft_layers;
  int64_t query_rank;                        // 0: queries come from the hidden state itself
  int64_t rank;                              // of the latent that keys and values are made of
  int64_t plain_dim, rotary_dim, value_dim;  // of a head
  std::vector<bool> dense;                   // by layer
  ExpertConfig experts;
  float epsilon;
  RopeConfig rope;
  bool bias, interleaved, tied;
  std::vector<int32_t> end_tokens;

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

// mlp_layer_types, or first_k_dense_replace dense layers.
std::vector<bool> ReadDense(const nlohmann::json& json, int64_t layers, ConfigReader& reader) {
  const int64_t first = reader.Int("first_k_dense_replace", 0, 1024, 1);
  std::vector<bool> dense;
  for (int64_t i = 0; i < layers; ++i) dense.push_back(i < first);
  const auto types = json.find("mlp_layer_types");
  if (types == json.end() || types->is_null()) return dense;
  const bool fits = types->is_array() && static_cast<int64_t>(types->size()) == layers;
  reader.Require(fits, "mlp_layer_types must have one of dense and sparse for each layer");
  for (int64_t i = 0; fits && i < layers; ++i) {
    const nlohmann::json& type = (*types)[i];
    reader.Require(type == "dense" || type == "sparse",
                   "mlp_layer_types must have one of dense and sparse for each layer");
    dense[i] = type == "dense";
  }
  return dense;
}

absl::StatusOr<Config> ReadConfig(const nlohmann::json& json) {
  ConfigReader reader(json);
  Config c;
  c.layers = reader.Int("num_hidden_layers", 1, 1024);
  c.hidden = reader.Int("hidden_size", 1, 1 << 17);
  c.ffn = reader.Int("intermediate_size", 1, 1 << 19);
  c.heads = reader.Int("num_attention_heads", 1, 1024);
  c.vocab = reader.Int("vocab_size", 1, 1 << 24);
  c.positions = reader.Int("max_position_embeddings", 1, 1 << 24);
  c.query_rank = reader.Int("q_lora_rank", 1, 1 << 17, 0);
  c.rank = reader.Int("kv_lora_rank", 16, 1 << 14);
  c.plain_dim = reader.Int("qk_nope_head_dim", 1, 4096);
  c.rotary_dim = reader.Int("qk_rope_head_dim", 2, 4096);
  c.value_dim = reader.Int("v_head_dim", 16, 4096);
  c.draft_layers = reader.Int("num_nextn_predict_layers", 0, 8, 0);
  c.experts = ReadExperts(reader);
  c.epsilon = static_cast<float>(reader.Number("rms_norm_eps", 0, 1, 1e-5));
  c.rope = ReadRope(json, c.rotary_dim, 1.0, reader);
  c.bias = reader.Bool("attention_bias", false);
  c.interleaved = reader.Bool("rope_interleave", true);
  c.tied = reader.Bool("tie_word_embeddings", false);
  c.end_tokens = reader.Ids("eos_token_id", c.vocab, {});
  reader.MustBe("hidden_act", "silu");
  if (!reader.status().ok()) return reader.status();
  c.dense = ReadDense(json, c.layers, reader);
  reader.Require((c.layers + c.draft_layers) * c.experts.count <= kMostExperts,
                 "num_hidden_layers times n_routed_experts must not exceed 65536");
  reader.Require(c.rope.dims == c.rotary_dim, "partial_rotary_factor must be 1");
  reader.Require(c.rank % kPanelRows == 0 && c.value_dim % kPanelRows == 0,
                 "kv_lora_rank and v_head_dim must be multiples of 16");
  if (!reader.status().ok()) return reader.status();
  return c;
}

std::string Layer(int64_t layer, const std::string& name) {
  return absl::StrCat("model.layers.", layer, ".", name);
}
std::string Attention(int64_t layer, const std::string& name) {
  return Layer(layer, absl::StrCat(kAttention, name));
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

  void AddAttention(int64_t i) {
    Norm(Layer(i, "input_layernorm.weight"), c_.hidden);
    const int64_t queries = c_.heads * c_.query_dim();
    if (c_.query_rank > 0) {
      Linear(Attention(i, "q_a_proj"), c_.query_rank, c_.hidden, c_.bias);
      Norm(Attention(i, "q_a_layernorm.weight"), c_.query_rank);
      Linear(Attention(i, "q_b_proj"), queries, c_.query_rank, false);
    } else {
      Linear(Attention(i, "q_proj"), queries, c_.hidden, false);
    }
    Linear(Attention(i, "kv_a_proj_with_mqa"), c_.key_dim(), c_.hidden, c_.bias);
    Norm(Attention(i, "kv_a_layernorm.weight"), c_.rank);
    Halves(i);
    Linear(Attention(i, "o_proj"), c_.hidden, c_.heads * c_.value_dim, c_.bias);
  }

  void AddMlp(int64_t i) {
    Norm(Layer(i, "post_attention_layernorm.weight"), c_.hidden);
    if (i < c_.layers && c_.dense[i]) {
      Linear(Layer(i, "mlp.gate_proj"), c_.ffn, c_.hidden, false);
      Linear(Layer(i, "mlp.up_proj"), c_.ffn, c_.hidden, false);
      Linear(Layer(i, "mlp.down_proj"), c_.hidden, c_.ffn, false);
    } else {
      AddExperts(c_.experts, Layer(i, "mlp."), c_.hidden, kept_, &spec_);
    }
  }

  // The layer behind the last, where the checkpoint has it.
  void AddDraft(int64_t i) {
    kept_ = true;
    Norm(Layer(i, "enorm.weight"), c_.hidden);
    Norm(Layer(i, "hnorm.weight"), c_.hidden);
    Linear(Layer(i, "eh_proj"), c_.hidden, 2 * c_.hidden, false);
    Linear(Layer(i, "embed_tokens"), c_.vocab, c_.hidden, false);
    AddAttention(i);
    AddMlp(i);
    Norm(Layer(i, "shared_head.norm.weight"), c_.hidden);
    Linear(Layer(i, "shared_head.head"), c_.vocab, c_.hidden, false);
    kept_ = false;
  }

  void Norm(std::string name, int64_t cols) { Add(std::move(name), {cols}, TensorUse::kConstant); }

 private:
  void Linear(const std::string& name, int64_t rows, int64_t cols, bool bias) {
    if (bias) Add(name + ".bias", {rows}, TensorUse::kConstant);
    Add(name + ".weight", {rows, cols}, TensorUse::kMatrix);
  }

  // kv_b_proj makes a head's keys and values of the latent. What it does to keys is done to queries
  // instead, transposed, and what it does to values to their weighted sum.
  void Halves(int64_t i) {
    const std::string whole = Attention(i, "kv_b_proj.weight");
    const int64_t head_rows = c_.plain_dim + c_.value_dim;
    Add(whole + ".keys", {c_.heads * c_.rank, c_.plain_dim}, TensorUse::kMatrix).slice = {
        whole, c_.heads, head_rows, 0, c_.plain_dim, true};
    Add(whole + ".values", {c_.heads * c_.value_dim, c_.rank}, TensorUse::kMatrix).slice = {
        whole, c_.heads, head_rows, c_.plain_dim, c_.value_dim, false};
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
  spec.family = "glm4-moe-lite";
  Lister list(c, &spec);
  list.Unit("embedding");
  list.Add("model.embed_tokens.weight", {c.vocab, c.hidden}, TensorUse::kEmbedding).tied = c.tied;
  for (int64_t i = 0; i < c.layers; ++i) {
    list.Unit(absl::StrCat("attention ", i));
    list.AddAttention(i);
    list.Unit(absl::StrCat("mlp ", i));
    list.AddMlp(i);
  }
  list.Unit("head");
  list.Norm("model.norm.weight", c.hidden);
  if (!c.tied) list.Add("lm_head.weight", {c.vocab, c.hidden}, TensorUse::kMatrix);
  for (int64_t i = 0; i < c.draft_layers; ++i) list.AddDraft(c.layers + i);
  spec.kv = {static_cast<int>(c.layers), 1, c.key_dim(), c.rank, /*values_in_keys=*/true};
  spec.hidden_size = c.hidden;
  spec.attention_cols = c.heads * c.rank;
  spec.widest_row = std::max({c.attention_row(), 2 * c.ffn, c.experts.widest_row()});
  spec.rotary_dims = c.rotary_dim;
  spec.vocab_size = c.vocab;
  spec.max_positions = c.positions;
  return spec;
}

class Glm4MoeLite : public CausalModel {
 public:
  Glm4MoeLite(Config config, const ModelFile& file)
      : CausalModel(file.spec, config.end_tokens),
        config_(std::move(config)),
        frequencies_(RopeFrequencies(config_.rope.base, config_.rope.dims)) {
    embedding_ = file.Find("model.embed_tokens.weight");
    const auto linear = [&](const std::string& name) {
      return Projection{file.Find(name + ".weight"), file.Find(name + ".bias")};
    };
    for (int64_t i = 0; i < config_.layers; ++i) {
      const bool dense = config_.dense[i];
      LayerWeights layer{
          .input_norm = file.Find(Layer(i, "input_layernorm.weight")),
          .query_down = linear(Attention(i, "q_a_proj")),
          .query_norm = file.Find(Attention(i, "q_a_layernorm.weight")),
          .query = linear(Attention(i, config_.query_rank > 0 ? "q_b_proj" : "q_proj")),
          .key = linear(Attention(i, "kv_a_proj_with_mqa")),
          .key_norm = file.Find(Attention(i, "kv_a_layernorm.weight")),
          .keys_of_latent = file.Find(Attention(i, "kv_b_proj.weight.keys")),
          .values_of_latent = file.Find(Attention(i, "kv_b_proj.weight.values")),
          .out = linear(Attention(i, "o_proj")),
          .mlp_norm = file.Find(Layer(i, "post_attention_layernorm.weight")),
          .mlp = FindGated(file, Layer(i, dense ? "mlp." : "mlp.shared_experts.")),
          .ffn = dense ? config_.ffn : config_.experts.shared_ffn(),
          .experts = dense ? nullptr : FindExperts(config_.experts, file, Layer(i, "mlp.")),
      };
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
    return stage % 2 == 1 ? Attend(layer, step, pass) : Mlp(layer, pass);
  }

  void FinalNorm(Tensor rows, Pass& pass) const override {
    Norm(rows, final_norm_, config_.epsilon, rows, pass);
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
    int mlp_norm;
    GatedWeights mlp;  // of a dense layer, or the shared expert
    int64_t ffn;
    std::unique_ptr<ExpertLayer> experts;  // null in a dense layer
  };

  void Norm(Tensor x, int weight, float epsilon, Tensor out, Pass& pass) const {
    pass.backend().rms_norm(
        {.x = x, .weight = pass.constant(weight), .epsilon = epsilon, .out = out}, pass.stream());
  }

  absl::Status Queries(const LayerWeights& w, Tensor normed, Tensor latent, Tensor queries,
                       Pass& pass) const {
    if (config_.query_rank == 0) return pass.Linear(w.query, normed, queries);
    if (auto status = pass.Linear(w.query_down, normed, latent); !status.ok()) return status;
    Norm(latent, w.query_norm, kLatentEpsilon, latent, pass);
    return pass.Linear(w.query, latent, queries);
  }

  // A token's key, which all heads share, is its latent and a rotated part; its value is the
  // latent.
  absl::Status Attend(int layer, const Step& step, Pass& pass) const {
    const LayerWeights& w = layers_[layer];
    const Config& c = config_;
    const Tensor x = pass.hidden(), normed = pass.narrow(c.hidden);
    const Tensor row = pass.wide(c.attention_row());
    const Tensor key = row.Columns(0, c.key_dim());
    const Tensor queries = row.Columns(c.queries_at(), c.heads * c.query_dim());
    const Tensor absorbed = row.Columns(c.latent_at(), c.heads * c.key_dim());
    Norm(x, w.input_norm, c.epsilon, normed, pass);
    auto status = Queries(w, normed, row.Columns(c.latent_at(), c.query_rank), queries, pass);
    if (status.ok()) status = pass.Linear(w.key, normed, key);
    if (!status.ok()) return status;
    const Tensor latent = key.Columns(0, c.rank);
    Norm(latent, w.key_norm, kLatentEpsilon, latent, pass);
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

  absl::Status Mlp(int layer, Pass& pass) const {
    const LayerWeights& w = layers_[layer];
    const Tensor x = pass.hidden(), normed = pass.narrow(config_.hidden);
    Norm(x, w.mlp_norm, config_.epsilon, normed, pass);
    if (w.experts == nullptr) return RunGated(w.mlp, w.ffn, normed, x, pass);
    // What is missing is read while the shared expert is computed.
    w.experts->Begin(normed, pass);
    const LayerWeights* next = layer + 1 < static_cast<int>(layers_.size()) ? &w + 1 : nullptr;
    if (next != nullptr && next->experts != nullptr && ExpertLayer::WantsForesight(pass)) {
      const Tensor ahead = pass.expert_input(x.rows);
      Norm(x, next->mlp_norm, config_.epsilon, ahead, pass);
      next->experts->Foresee(ahead, pass);
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

bool Matches(const nlohmann::json& json) { return json.value("model_type", "") == "glm4_moe_lite"; }

absl::StatusOr<std::unique_ptr<Model>> Create(const nlohmann::json& json, const ModelFile& file) {
  absl::StatusOr<Config> config = ReadConfig(json);
  if (!config.ok()) return config.status();
  return std::make_unique<Glm4MoeLite>(*std::move(config), file);
}

}  // namespace

const ModelFamily kGlm4MoeLiteFamily = {"glm4-moe-lite", Matches, Describe, Create};

}  // namespace qianyi
