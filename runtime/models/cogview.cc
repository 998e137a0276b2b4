// CogView: one causal Transformer over image codes and text, with Sandwich-LN, learned positions
// and a tied head. Ding et al. 2021, arXiv:2105.13290.
#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "runtime/model.h"
#include "runtime/models/config.h"
#include "runtime/models/megatron_names.h"
#include "runtime/models/registry.h"
#include "runtime/pictures/picture_config.h"
#include "runtime/pictures/picture_query.h"
#include "runtime/storage/model_file.h"

namespace qianyi {
namespace {

// Every norm is of x / (max|x| / 8).
constexpr float kMaxScale = 8.0f;

struct Config {
  int64_t layers, hidden, heads;
  float epsilon;
  // For `verify`: the maximum is over the whole tensor, as in the original program, so that a
  // token's result depends on all others. Never in serving.
  bool original_layernorm;
  PictureConfig picture;
};

absl::StatusOr<Config> ReadConfig(const nlohmann::json& json) {
  ConfigReader reader(json);
  Config c;
  c.layers = reader.Int("num_layers", 1, 1024);
  c.hidden = reader.Int("hidden_size", 1, 1 << 17);
  c.heads = reader.Int("num_attention_heads", 1, 1024);
  c.epsilon = static_cast<float>(reader.Number("layernorm_epsilon", 0, 1, 1e-5));
  c.original_layernorm = reader.Bool("original_layernorm", false);
  if (!reader.status().ok()) return reader.status();
  reader.Require(c.hidden % c.heads == 0, "hidden_size must be a multiple of num_attention_heads");
  if (!reader.status().ok()) return reader.status();
  absl::StatusOr<PictureConfig> picture = PictureConfig::Read(json);
  if (!picture.ok()) return picture.status();
  c.picture = *std::move(picture);
  return c;
}

absl::StatusOr<ModelSpec> Describe(const nlohmann::json& json) {
  absl::StatusOr<Config> config = ReadConfig(json);
  if (!config.ok()) return config.status();
  const Config& c = *config;
  ModelSpec spec;
  spec.family = "cogview";
  TensorLister list(&spec);
  list.Unit("embedding");
  list.Constant("transformer.position_embeddings.weight", {c.picture.positions, c.hidden});
  for (int64_t i = 0; i < c.layers; ++i) {
    list.Unit(absl::StrCat("attention ", i));
    ListMegatronAttention(i, c.hidden, list);
    list.LayerNorm(MegatronTensor(i, "third_layernorm"), c.hidden);
    list.Unit(absl::StrCat("mlp ", i));
    ListMegatronMlp(i, c.hidden, 4 * c.hidden, 4 * c.hidden, list);
    list.LayerNorm(MegatronTensor(i, "fourth_layernorm"), c.hidden);
  }
  list.Unit("head");
  list.LayerNorm("transformer.final_layernorm", c.hidden);
  list.Add("word_embeddings.weight", {c.picture.vocab_size, c.hidden}, TensorUse::kEmbedding).tied =
      true;
  const int64_t head_dim = c.hidden / c.heads;
  spec.kv = {static_cast<int>(c.layers), c.heads, head_dim, head_dim};
  spec.hidden_size = c.hidden;
  spec.attention_cols = c.hidden;
  spec.widest_row = 4 * c.hidden;
  spec.vocab_size = c.picture.vocab_size;
  // One past it are the tokens of a sequence at most: positions may restart.
  spec.max_positions = c.picture.positions - 1;
  return spec;
}

struct LayerWeights {
  MegatronLayer blocks;
  LayerNormWeights third_norm, fourth_norm;  // of what attention and the MLP add
};

class CogView : public Model {
 public:
  CogView(Config config, const ModelFile& file) : Model(file.spec), config_(std::move(config)) {
    embedding_ = file.Find("word_embeddings.weight");
    positions_ = file.Find("transformer.position_embeddings.weight");
    for (int64_t i = 0; i < config_.layers; ++i) {
      layers_.push_back({FindMegatronLayer(file, i),
                         FindLayerNorm(file, MegatronTensor(i, "third_layernorm")),
                         FindLayerNorm(file, MegatronTensor(i, "fourth_layernorm"))});
    }
    final_norm_ = FindLayerNorm(file, "transformer.final_layernorm");
  }

  absl::Status Run(int stage, const Step& step, Pass& pass) const override {
    if (stage == 0) return Embed(step, pass);
    if (stage == stages() - 1) return Head(pass);
    const int layer = (stage - 1) / 2;
    return stage % 2 == 1 ? Attention(layer, step, pass) : Mlp(layer, pass);
  }

  void FinalNorm(Tensor rows, Pass& pass) const override { Norm(rows, final_norm_, rows, pass); }

  absl::StatusOr<Prompt> LayOut(std::vector<int32_t> ids) const override {
    if (absl::Status status = CheckIds(ids); !status.ok()) return status;
    Prompt prompt;
    const int32_t count = static_cast<int32_t>(ids.size());
    ids.push_back(kGeneratedPlace);
    prompt.positions[0] = QueryPositions(ids, config_.picture.Command("[ROI2]"));
    prompt.blanks.push_back({.position = {prompt.positions[0].back(), 0}, .stride = {1, 0}});
    ids.pop_back();
    prompt.positions[0].pop_back();
    prompt.positions[1].assign(count, 0);
    prompt.tokens = std::move(ids);
    return prompt;
  }

  // The beginning of a picture of the text.
  absl::StatusOr<std::vector<int32_t>> Encode(const Tokenizer& tokenizer,
                                              std::span<const PromptPart> text) const override {
    absl::StatusOr<std::vector<int32_t>> ids = EncodeParts(tokenizer, text);
    if (!ids.ok()) return ids.status();
    ids->insert(ids->begin(), config_.picture.Command("[ROI1]"));
    ids->push_back(config_.picture.Command(config_.picture.size_word));
    ids->push_back(config_.picture.Command("[BOI1]"));
    return ids;
  }

  const std::vector<int32_t>& end_tokens() const override { return end_tokens_; }

 private:
  void Norm(Tensor x, LayerNormWeights w, Tensor out, Pass& pass) const {
    LayerNorm norm = {.x = x,
                      .weight = pass.constant(w.weight),
                      .bias = pass.constant(w.bias),
                      .epsilon = config_.epsilon,
                      .out = out,
                      .max_scale = kMaxScale};
    if (config_.original_layernorm) {
      float most = 0.0f;
      for (const float value : pass.Fetch(x)) most = std::max(most, std::abs(value));
      norm.epsilon *= most / kMaxScale * (most / kMaxScale);
      norm.max_scale = 0.0f;
    }
    pass.backend().layer_norm(norm, pass.stream());
  }

  absl::Status Embed(const Step& step, Pass& pass) const {
    if (auto status = pass.Embed(embedding_, step); !status.ok()) return status;
    float* rows = const_cast<float*>(pass.constant(positions_));  // a Tensor has no const form
    pass.backend().add_rows({.table = F32(rows, config_.picture.positions, config_.hidden),
                             .ids = pass.Upload(step.positions[0].data(), step.size()),
                             .x = pass.hidden()},
                            pass.stream());
    return absl::OkStatus();
  }

  // x += norm(branch).
  void AddNormed(Tensor branch, LayerNormWeights w, std::string_view name, Pass& pass) const {
    Norm(branch, w, branch, pass);
    pass.Show(name, branch);
    pass.backend().add_rows({.table = branch, .ids = nullptr, .x = pass.hidden()}, pass.stream());
  }

  absl::Status Attention(int layer, const Step& step, Pass& pass) const {
    const LayerWeights& w = layers_[layer];
    const int64_t d = config_.hidden;
    const Tensor normed = pass.narrow(d);
    const Tensor qkv = pass.wide(3 * d);
    Norm(pass.hidden(), w.blocks.input_norm, normed, pass);
    pass.Show("input_layernorm", normed);
    if (auto status = pass.Linear(w.blocks.qkv, normed, qkv); !status.ok()) return status;
    const float scale = 1.0f / std::sqrt(static_cast<float>(d / config_.heads));
    pass.Attend(step, layer, qkv.Columns(0, d), qkv.Columns(d, d), qkv.Columns(2 * d, d),
                config_.heads, scale, normed);
    const Tensor branch = pass.wide(d);
    if (auto status = pass.Linear(w.blocks.dense, normed, branch); !status.ok()) return status;
    pass.Show("attention", branch);
    AddNormed(branch, w.third_norm, "third_layernorm", pass);
    return absl::OkStatus();
  }

  absl::Status Mlp(int layer, Pass& pass) const {
    const LayerWeights& w = layers_[layer];
    const Tensor normed = pass.narrow(config_.hidden);
    const Tensor up = pass.wide(4 * config_.hidden);
    Norm(pass.hidden(), w.blocks.mlp_norm, normed, pass);
    pass.Show("post_attention_layernorm", normed);
    if (auto status = pass.Linear(w.blocks.up, normed, up); !status.ok()) return status;
    pass.backend().activate({.kind = Activation::kGeluTanh, .x = up, .out = up}, pass.stream());
    if (auto status = pass.Linear(w.blocks.down, up, normed); !status.ok()) return status;
    pass.Show("mlp", normed);
    AddNormed(normed, w.fourth_norm, "fourth_layernorm", pass);
    return absl::OkStatus();
  }

  absl::Status Head(Pass& pass) const {
    pass.TakeLogitRows();
    FinalNorm(pass.head_input(), pass);
    return pass.Linear({embedding_}, pass.head_input(), pass.logits());
  }

  const Config config_;
  const std::vector<int32_t> end_tokens_;
  int embedding_ = -1, positions_ = -1;
  std::vector<LayerWeights> layers_;
  LayerNormWeights final_norm_;
};

// Published shapes.
constexpr BuiltinShape kShapes[] = {
    {"cogview-base",
     R"({"model_type":"cogview","num_layers":48,"hidden_size":2560,"num_attention_heads":40})"},
};

bool Matches(const nlohmann::json& json) { return json.value("model_type", "") == "cogview"; }

absl::StatusOr<std::unique_ptr<Model>> Create(const nlohmann::json& json, const ModelFile& file) {
  absl::StatusOr<Config> config = ReadConfig(json);
  if (!config.ok()) return config.status();
  return std::make_unique<CogView>(*std::move(config), file);
}

}  // namespace

extern const ModelFamily kCogViewFamily = {.name = "cogview",
                                           .matches = Matches,
                                           .describe = Describe,
                                           .create = Create,
                                           .shapes = kShapes};

}  // namespace qianyi
