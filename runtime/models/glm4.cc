// GLM-4-9B and GLM-4-0414 in the names of transformers' Glm and Glm4: pre-norm RMSNorm, grouped
// queries, interleaved rotary positions on the first part of each head, SwiGLU, causal. Glm4 norms
// what attention and MLP add as well. zai-org/glm-4-9b-chat-hf, zai-org/GLM-4-32B-0414.
#include <memory>
#include <utility>
#include <vector>

#include "nlohmann/json.hpp"
#include "runtime/models/gguf_config.h"
#include "runtime/models/pre_norm.h"
#include "runtime/models/registry.h"
#include "runtime/models/sources.h"

namespace qianyi {
namespace {

struct Config {
  PreNormConfig base;
  GroupedQueries queries;
  bool sandwich;
};

absl::StatusOr<Config> ReadConfig(const nlohmann::json& json) {
  ConfigReader reader(json);
  Config c;
  c.sandwich = json.value("model_type", "") == "glm4";
  c.base = ReadPreNorm(reader, 1.5625e-7);
  c.queries = ReadGroupedQueries(reader, c.base.hidden, true);
  c.base.rope = ReadRope(json, c.queries.head_dim, 0.5, reader);
  if (!reader.status().ok()) return reader.status();
  return c;
}

absl::StatusOr<ModelSpec> Describe(const nlohmann::json& json) {
  absl::StatusOr<Config> config = ReadConfig(json);
  if (!config.ok()) return config.status();
  const Config& c = *config;
  const int64_t hidden = c.base.hidden, ffn = c.base.ffn;
  ModelSpec spec;
  spec.family = c.sandwich ? "glm4" : "glm";
  TensorLister list(&spec);
  const auto norm = [&](int64_t layer, const char* name) {
    list.Constant(LayerTensor(layer, name), {hidden});
  };
  const auto attention = [&](int64_t i) {
    ListGroupedQueries(c.queries, i, hidden, list);
    if (c.sandwich) norm(i, "post_self_attn_layernorm.weight");
  };
  const auto mlp = [&](int64_t i) {
    norm(i, "post_attention_layernorm.weight");
    list.Linear(LayerTensor(i, "mlp.gate_up_proj"), 2 * ffn, hidden, false);
    list.Linear(LayerTensor(i, "mlp.down_proj"), hidden, ffn, false);
    if (c.sandwich) norm(i, "post_mlp_layernorm.weight");
  };
  ListPreNorm(c.base, attention, mlp, list);
  SizeGroupedQueries(c.queries, &spec);
  return spec;
}

class Glm4 : public PreNormModel {
 public:
  Glm4(const Config& config, const ModelFile& file)
      : PreNormModel(config.base, file), config_(config) {
    for (int64_t i = 0; i < config.base.layers; ++i) {
      layers_.push_back({
          .attention = FindGroupedQueries(file, i),
          .attention_norm = file.Find(LayerTensor(i, "post_self_attn_layernorm.weight")),
          .mlp_norm = file.Find(LayerTensor(i, "post_attention_layernorm.weight")),
          .up = FindLinear(file, LayerTensor(i, "mlp.gate_up_proj")),
          .down = FindLinear(file, LayerTensor(i, "mlp.down_proj")),
          .post_mlp_norm = file.Find(LayerTensor(i, "post_mlp_layernorm.weight")),
      });
    }
  }

 private:
  struct LayerWeights {
    GroupedWeights attention;
    int attention_norm;  // -1: none
    int mlp_norm;
    Projection up, down;
    int post_mlp_norm;  // -1: none
  };

  absl::Status Attention(int layer, const Step& step, Pass& pass) const override {
    const LayerWeights& w = layers_[layer];
    Tensor attended;
    if (auto status = AttendGrouped(config_.queries, w.attention, layer, step, pass, &attended);
        !status.ok()) {
      return status;
    }
    return AddLinear(w.attention.out, w.attention_norm, attended, pass.wide(config_.base.hidden),
                     pass);
  }

  absl::Status Mlp(int layer, Pass& pass) const override {
    const LayerWeights& w = layers_[layer];
    Tensor gated;
    if (auto status = GatedUp(w.mlp_norm, w.up, config_.base.ffn, pass, &gated); !status.ok()) {
      return status;
    }
    return AddLinear(w.down, w.post_mlp_norm, gated, pass.narrow(config_.base.hidden), pass);
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

  const Config config_;
  std::vector<LayerWeights> layers_;
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

// Published shapes.
constexpr BuiltinShape kGlmShapes[] = {
    {"glm-4-9b-hf", R"({"model_type":"glm","num_hidden_layers":40,"hidden_size":4096,)"
                    R"("intermediate_size":13696,"num_attention_heads":32,"num_key_value_heads":2,)"
                    R"("head_dim":128,"vocab_size":151552,"max_position_embeddings":131072,)"
                    R"("rms_norm_eps":1.5625e-7,"rope_theta":10000.0,"attention_bias":true,)"
                    R"("eos_token_id":[151329,151336,151338]})"},
};

constexpr BuiltinShape kGlm4Shapes[] = {
    {"glm-4-32b", R"({"model_type":"glm4","num_hidden_layers":61,"hidden_size":6144,)"
                  R"("intermediate_size":23040,"num_attention_heads":48,"num_key_value_heads":2,)"
                  R"("head_dim":128,"vocab_size":151552,"max_position_embeddings":32768,)"
                  R"("rms_norm_eps":1e-5,"rope_theta":10000.0,"attention_bias":false,)"
                  R"("eos_token_id":[151329,151336,151338]})"},
};

std::string_view GlmChatFormat(const nlohmann::json&) { return "glm4"; }
std::string_view Glm4ChatFormat(const nlohmann::json&) { return "glm4-0414"; }

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

extern const ModelFamily kGlmFamily = {.name = "glm",
                                       .matches = MatchesGlm,
                                       .describe = Describe,
                                       .create = Create,
                                       .chat_format = GlmChatFormat,
                                       .shapes = kGlmShapes};
extern const ModelFamily kGlm4Family = {.name = "glm4",
                                        .matches = MatchesGlm4,
                                        .describe = Describe,
                                        .create = Create,
                                        .sources = Sources,
                                        .gguf_architecture = "glm4",
                                        .config_from_gguf = GgufToConfig,
                                        .chat_format = Glm4ChatFormat,
                                        .shapes = kGlm4Shapes};

}  // namespace qianyi
