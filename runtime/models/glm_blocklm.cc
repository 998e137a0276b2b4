// GLM, 110M to 10B, English and Chinese: autoregressive blank infilling with learned
// two-row positions, pre-norm LayerNorm, tied output. Du et al. 2022, arXiv:2103.10360.
#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"
#include "runtime/model.h"
#include "runtime/models/config.h"
#include "runtime/models/megatron_names.h"
#include "runtime/models/registry.h"
#include "runtime/models/sources.h"
#include "runtime/storage/model_file.h"
#include "runtime/tokenizers/utf8.h"

namespace qianyi {
namespace {

struct SpecialIds {
  int32_t enc = -1, eos = -1, sop = -1, eop = -1, mask = -1, gmask = -1, smask = -1;
};
// The two released vocabularies, known by their padded sizes.
constexpr SpecialIds kEnglish = {50259, 50256, 50257, 50258, 50260, 50263, 50264};
constexpr SpecialIds kChinese = {50002, 50000, 50006, 50007, 50003, 50009, 50008};
constexpr int64_t kEnglishVocab = 50304;
constexpr int64_t kChineseVocab = 50048;

struct Config {
  int64_t layers, hidden, heads, vocab, positions;
  float epsilon;
  SpecialIds ids;
  std::vector<int32_t> end_tokens;
};

absl::StatusOr<Config> ReadConfig(const nlohmann::json& json) {
  ConfigReader reader(json);
  Config c;
  c.layers = reader.Int("num_layers", 1, 1024);
  c.hidden = reader.Int("hidden_size", 1, 1 << 17);
  c.heads = reader.Int("num_attention_heads", 1, 1024);
  c.vocab = reader.Int("vocab_size", 1, 1 << 24);
  // Both position tables have one row more than this.
  c.positions = reader.Int("max_sequence_length", 1, 1 << 20);
  c.epsilon = static_cast<float>(reader.Number("layernorm_epsilon", 0, 1, 1e-5));
  // PB-relax: scores are divided by it before, and multiplied after their maximum is subtracted, so
  // that half precision does not overflow. The result is the same.
  reader.Number("attention_scale", 0, 1e6, 1.0);
  reader.MustBe("block_position_encoding", true);
  reader.MustBe("relative_encoding", false);
  reader.MustBe("tie_word_embeddings", true);
  SpecialIds known;
  if (c.vocab == kEnglishVocab) known = kEnglish;
  if (c.vocab == kChineseVocab) known = kChinese;
  auto id = [&](std::string_view name, int32_t absent) {
    return reader.Id("special_token_ids", name, c.vocab, absent);
  };
  c.ids = {id("ENC", known.enc),    id("eos", known.eos),   id("sop", known.sop),
           id("eop", known.eop),    id("MASK", known.mask), id("gMASK", known.gmask),
           id("sMASK", known.smask)};
  std::vector<int32_t> ends;
  for (int32_t end : {c.ids.eop, c.ids.eos}) {
    if (end >= 0) ends.push_back(end);
  }
  c.end_tokens = reader.Ids("end_token_ids", c.vocab, ends);
  if (!reader.status().ok()) return reader.status();
  reader.Require(c.hidden % c.heads == 0, "hidden_size must be a multiple of num_attention_heads");
  reader.Require(c.ids.sop >= 0 && (c.ids.mask >= 0 || c.ids.gmask >= 0),
                 "special_token_ids needs at least sop and one of MASK and gMASK when vocab_size "
                 "is not that of a released GLM (50304, 50048)");
  if (!reader.status().ok()) return reader.status();
  return c;
}

absl::StatusOr<ModelSpec> Describe(const nlohmann::json& json) {
  absl::StatusOr<Config> config = ReadConfig(json);
  if (!config.ok()) return config.status();
  const Config& c = *config;
  ModelSpec spec;
  spec.family = "glm-blocklm";
  TensorLister list(&spec);
  list.Unit("embedding");
  for (const char* table :
       {"transformer.position_embeddings.weight", "transformer.block_position_embeddings.weight"}) {
    list.Constant(table, {c.positions + 1, c.hidden});
  }
  for (int64_t i = 0; i < c.layers; ++i) {
    list.Unit(absl::StrCat("attention ", i));
    ListMegatronAttention(i, c.hidden, list);
    list.Unit(absl::StrCat("mlp ", i));
    ListMegatronMlp(i, c.hidden, 4 * c.hidden, 4 * c.hidden, list);
  }
  list.Unit("head");
  list.LayerNorm("transformer.final_layernorm", c.hidden);
  list.Add("word_embeddings.weight", {c.vocab, c.hidden}, TensorUse::kEmbedding).tied = true;
  const int64_t head_dim = c.hidden / c.heads;
  spec.kv = {static_cast<int>(c.layers), c.heads, head_dim, head_dim};
  spec.hidden_size = c.hidden;
  spec.attention_cols = c.hidden;
  spec.widest_row = 4 * c.hidden;
  spec.vocab_size = c.vocab;
  spec.max_positions = c.positions;
  spec.bidirectional = true;
  return spec;
}

class GlmBlockLm : public Model {
 public:
  GlmBlockLm(Config config, const ModelFile& file) : Model(file.spec), config_(std::move(config)) {
    embedding_ = file.Find("word_embeddings.weight");
    positions_ = file.Find("transformer.position_embeddings.weight");
    block_positions_ = file.Find("transformer.block_position_embeddings.weight");
    for (int64_t i = 0; i < config_.layers; ++i) layers_.push_back(FindMegatronLayer(file, i));
    final_norm_ = FindLayerNorm(file, "transformer.final_layernorm");
  }

  absl::Status Run(int stage, const Step& step, Pass& pass) const override {
    if (stage == 0) return Embed(step, pass);
    if (stage == stages() - 1) return Head(pass);
    const int layer = (stage - 1) / 2;
    return stage % 2 == 1 ? Attention(layer, step, pass) : Mlp(layer, pass);
  }

  void FinalNorm(Tensor rows, Pass& pass) const override { Norm(rows, final_norm_, rows, pass); }

  // Context token i stands at (i, 0), all of it bidirectional; the k-th token of a blank at
  // (index of its mask, k), beginning with <|startofpiece|> at k = 1.
  absl::StatusOr<Prompt> LayOut(std::vector<int32_t> ids) const override {
    if (std::none_of(ids.begin(), ids.end(), [this](int32_t id) { return IsMask(id); })) {
      ids.push_back(config_.ids.gmask >= 0 ? config_.ids.gmask : config_.ids.mask);
    }
    if (absl::Status status = CheckIds(ids); !status.ok()) return status;
    Prompt prompt;
    const int32_t count = static_cast<int32_t>(ids.size());
    for (int32_t i = 0; i < count; ++i) {
      prompt.positions[0].push_back(i);
      if (IsMask(ids[i])) {
        prompt.blanks.push_back(
            {.start_token = config_.ids.sop, .mask = i, .position = {i, 1}, .stride = {0, 1}});
      }
    }
    prompt.positions[1].assign(count, 0);
    prompt.bidirectional = count;
    prompt.tokens = std::move(ids);
    return prompt;
  }

  // A text without a mask gets a [gMASK] at its end; it strips the white space on its left. What
  // ends in [gMASK] is continued, and has no end-of-text token.
  absl::StatusOr<std::vector<int32_t>> Encode(const Tokenizer& tokenizer,
                                              std::span<const PromptPart> text) const override {
    absl::StatusOr<std::vector<int32_t>> ids = EncodeParts(tokenizer, text);
    if (!ids.ok()) return ids.status();
    if (std::none_of(ids->begin(), ids->end(), [this](int32_t id) { return IsMask(id); })) {
      std::vector<PromptPart> parts(text.begin(), text.end());
      if (!parts.empty()) parts.back().text = StripRight(parts.back().text);
      ids = EncodeParts(tokenizer, parts);
      if (!ids.ok()) return ids.status();
      ids->push_back(config_.ids.gmask >= 0 ? config_.ids.gmask : config_.ids.mask);
    }
    if (config_.ids.enc >= 0) ids->insert(ids->begin(), config_.ids.enc);
    if (ids->back() != config_.ids.gmask && config_.ids.eos >= 0) {
      ids->push_back(config_.ids.eos);
    }
    return ids;
  }

  const std::vector<int32_t>& end_tokens() const override { return config_.end_tokens; }

 private:
  bool IsMask(int32_t id) const {
    return id == config_.ids.mask || id == config_.ids.gmask || id == config_.ids.smask;
  }

  void Norm(Tensor x, LayerNormWeights w, Tensor out, Pass& pass) const {
    pass.backend().layer_norm({.x = x,
                               .weight = pass.constant(w.weight),
                               .bias = pass.constant(w.bias),
                               .epsilon = config_.epsilon,
                               .out = out},
                              pass.stream());
  }

  void AddTable(int table, const std::vector<int32_t>& ids, Pass& pass) const {
    float* rows = const_cast<float*>(pass.constant(table));  // a Tensor has no const form
    pass.backend().add_rows({.table = F32(rows, config_.positions + 1, config_.hidden),
                             .ids = pass.Upload(ids.data(), static_cast<int64_t>(ids.size())),
                             .x = pass.hidden()},
                            pass.stream());
  }

  absl::Status Embed(const Step& step, Pass& pass) const {
    if (auto status = pass.Embed(embedding_, step); !status.ok()) return status;
    AddTable(positions_, step.positions[0], pass);
    AddTable(block_positions_, step.positions[1], pass);
    return absl::OkStatus();
  }

  absl::Status Attention(int layer, const Step& step, Pass& pass) const {
    const MegatronLayer& w = layers_[layer];
    const int64_t d = config_.hidden;
    const Tensor x = pass.hidden();
    const Tensor normed = pass.narrow(d);
    const Tensor qkv = pass.wide(3 * d);
    Norm(x, w.input_norm, normed, pass);
    if (auto status = pass.Linear(w.qkv, normed, qkv); !status.ok()) return status;
    const float scale = 1.0f / std::sqrt(static_cast<float>(d / config_.heads));
    pass.Attend(step, layer, qkv.Columns(0, d), qkv.Columns(d, d), qkv.Columns(2 * d, d),
                config_.heads, scale, normed);
    return pass.Linear(w.dense, normed, x, x);
  }

  absl::Status Mlp(int layer, Pass& pass) const {
    const MegatronLayer& w = layers_[layer];
    const Tensor x = pass.hidden();
    const Tensor normed = pass.narrow(config_.hidden);
    const Tensor up = pass.wide(4 * config_.hidden);
    Norm(x, w.mlp_norm, normed, pass);
    if (auto status = pass.Linear(w.up, normed, up); !status.ok()) return status;
    pass.backend().activate({.kind = Activation::kGeluTanh, .x = up, .out = up}, pass.stream());
    return pass.Linear(w.down, up, x, x);
  }

  absl::Status Head(Pass& pass) const {
    pass.TakeLogitRows();
    FinalNorm(pass.head_input(), pass);
    return pass.Linear({embedding_}, pass.head_input(), pass.logits());
  }

  const Config config_;
  int embedding_ = -1, positions_ = -1, block_positions_ = -1;
  std::vector<MegatronLayer> layers_;
  LayerNormWeights final_norm_;
};

// How ranks cut the tensors, and SwissArmyTransformer's names where they differ.
TensorSources Sources(const nlohmann::json&, const TensorSpec& tensor) {
  const std::string& name = tensor.name;
  if (name == "word_embeddings.weight") {
    return {RankSplit::kRows, {Renamed(tensor, "transformer.word_embeddings.weight")}};
  }
  if (name == "transformer.block_position_embeddings.weight") {
    return {RankSplit::kWhole,
            {Renamed(tensor, "mixins.block_position_embedding.block_position_embeddings.weight")}};
  }
  if (name.find("query_key_value") != name.npos) return {RankSplit::kRowThirds};
  if (name.find("dense_h_to_4h") != name.npos) return {RankSplit::kRows};
  // The biases of these two are added once, after the ranks' products: each has a copy.
  if (name.ends_with("dense.weight") || name.ends_with("dense_4h_to_h.weight")) {
    return {RankSplit::kColumns};
  }
  return {};
}

// Published shapes.
constexpr BuiltinShape kShapes[] = {
    {"glm-large-chinese",
     R"({"model_type":"glm","num_layers":24,"hidden_size":1024,"num_attention_heads":16,)"
     R"("max_sequence_length":1024,"vocab_size":50048})"},
    {"glm-10b",
     R"({"model_type":"glm","num_layers":48,"hidden_size":4096,"num_attention_heads":64,)"
     R"("max_sequence_length":1024,"vocab_size":50304})"},
    {"glm-10b-chinese",
     R"({"model_type":"glm","num_layers":48,"hidden_size":4096,"num_attention_heads":64,)"
     R"("max_sequence_length":1024,"vocab_size":50048})"},
};

bool Matches(const nlohmann::json& json) {
  return json.value("model_type", "") == "glm" && json.contains("max_sequence_length");
}

absl::StatusOr<std::unique_ptr<Model>> Create(const nlohmann::json& json, const ModelFile& file) {
  absl::StatusOr<Config> config = ReadConfig(json);
  if (!config.ok()) return config.status();
  return std::make_unique<GlmBlockLm>(*std::move(config), file);
}

}  // namespace

extern const ModelFamily kGlmBlockLmFamily = {.name = "glm-blocklm",
                                              .matches = Matches,
                                              .describe = Describe,
                                              .create = Create,
                                              .sources = Sources,
                                              .shapes = kShapes};

}  // namespace qianyi
