// GLM-4.5, GLM-4.5-Air, GLM-4.6 and GLM-4.7 in the names of transformers' Glm4Moe: pre-norm
// RMSNorm, grouped queries with optional norms of queries and keys, half-split rotary positions on
// the first part of each head, SwiGLU in the first layers, then experts beside a shared one.
// zai-org/GLM-4.5. The layer that predicts a second token is stored and not run.
#include <memory>
#include <utility>
#include <vector>

#include "nlohmann/json.hpp"
#include "runtime/models/expert_model.h"
#include "runtime/models/gguf_config.h"
#include "runtime/models/registry.h"
#include "runtime/models/sources.h"

namespace qianyi {
namespace {

struct Config {
  ExpertModelConfig model;
  GroupedQueries queries;
};

absl::StatusOr<Config> ReadConfig(const nlohmann::json& json) {
  ConfigReader reader(json);
  Config c;
  c.model = ReadExpertModel(reader);
  c.queries = ReadGroupedQueries(reader, c.model.base.hidden, false);
  c.queries.qk_norm = reader.Bool("use_qk_norm", false);
  c.queries.pairs = RopePairs::kHalfSplit;
  c.model.base.rope = ReadRope(json, c.queries.head_dim, 0.5, reader);
  if (reader.status().ok()) CheckExpertModel(c.model, reader);
  if (!reader.status().ok()) return reader.status();
  return c;
}

absl::StatusOr<ModelSpec> Describe(const nlohmann::json& json) {
  absl::StatusOr<Config> config = ReadConfig(json);
  if (!config.ok()) return config.status();
  const Config& c = *config;
  ModelSpec spec;
  spec.family = "glm4-moe";
  TensorLister list(&spec);
  const auto attention = [&](int64_t layer) {
    ListGroupedQueries(c.queries, layer, c.model.base.hidden, list);
  };
  ListExpertModel(c.model, attention, list);
  SizeGroupedQueries(c.queries, &spec);
  return spec;
}

class Glm4Moe : public ExpertModel {
 public:
  Glm4Moe(const Config& config, const ModelFile& file)
      : ExpertModel(config.model, file), queries_(config.queries) {
    for (int64_t i = 0; i < config.model.base.layers; ++i) {
      layers_.push_back(FindGroupedQueries(file, i));
    }
  }

 private:
  absl::Status Attention(int layer, const Step& step, Pass& pass) const override {
    const GroupedWeights& w = layers_[layer];
    Tensor attended;
    if (auto status = AttendGrouped(queries_, w, layer, step, pass, &attended); !status.ok()) {
      return status;
    }
    return pass.Linear(w.out, attended, pass.hidden(), pass.hidden());
  }

  const GroupedQueries queries_;
  std::vector<GroupedWeights> layers_;
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

// Published shapes.
constexpr BuiltinShape kShapes[] = {
    {"glm-4.5-air",
     R"({"model_type":"glm4_moe","num_hidden_layers":46,"hidden_size":4096,"intermediate_size":10944,)"
     R"("num_attention_heads":96,"num_key_value_heads":8,"head_dim":128,"vocab_size":151552,)"
     R"("max_position_embeddings":131072,"rms_norm_eps":1e-5,"rope_theta":1000000,)"
     R"("partial_rotary_factor":0.5,"attention_bias":true,"use_qk_norm":false,)"
     R"("first_k_dense_replace":1,"n_routed_experts":128,"num_experts_per_tok":8,)"
     R"("n_shared_experts":1,"moe_intermediate_size":1408,"n_group":1,"topk_group":1,)"
     R"("norm_topk_prob":true,"routed_scaling_factor":1.0,)"
     R"("eos_token_id":[151329,151336,151338]})"},
    {"glm-4.5",
     R"({"model_type":"glm4_moe","num_hidden_layers":92,"hidden_size":5120,"intermediate_size":12288,)"
     R"("num_attention_heads":96,"num_key_value_heads":8,"head_dim":128,"vocab_size":151552,)"
     R"("max_position_embeddings":131072,"rms_norm_eps":1e-5,"rope_theta":1000000,)"
     R"("partial_rotary_factor":0.5,"attention_bias":true,"use_qk_norm":true,)"
     R"("first_k_dense_replace":3,"n_routed_experts":160,"num_experts_per_tok":8,)"
     R"("n_shared_experts":1,"moe_intermediate_size":1536,"n_group":1,"topk_group":1,)"
     R"("norm_topk_prob":true,"routed_scaling_factor":2.5,)"
     R"("eos_token_id":[151329,151336,151338]})"},
    // No published model: GLM-4.5's layout at 30 billion parameters, 3 billion of them per token.
    {"glm-moe-30b-a3b",
     R"({"model_type":"glm4_moe","num_hidden_layers":48,"hidden_size":2048,"intermediate_size":6144,)"
     R"("num_attention_heads":32,"num_key_value_heads":4,"head_dim":128,"vocab_size":151552,)"
     R"("max_position_embeddings":131072,"rms_norm_eps":1e-5,"rope_theta":1000000,)"
     R"("partial_rotary_factor":0.5,"attention_bias":false,"use_qk_norm":true,)"
     R"("first_k_dense_replace":1,"n_routed_experts":128,"num_experts_per_tok":8,)"
     R"("n_shared_experts":1,"moe_intermediate_size":768,"n_group":1,"topk_group":1,)"
     R"("norm_topk_prob":true,"routed_scaling_factor":2.5,)"
     R"("eos_token_id":[151329,151336,151338]})"},
};

std::string_view ChatFormatName(const nlohmann::json& json) {
  return CheckpointName(json).find("4.7") != std::string::npos ? "glm4.7" : "glm4.5";
}

bool Matches(const nlohmann::json& json) { return json.value("model_type", "") == "glm4_moe"; }

absl::StatusOr<std::unique_ptr<Model>> Create(const nlohmann::json& json, const ModelFile& file) {
  absl::StatusOr<Config> config = ReadConfig(json);
  if (!config.ok()) return config.status();
  return std::make_unique<Glm4Moe>(*std::move(config), file);
}

}  // namespace

extern const ModelFamily kGlm4MoeFamily = {.name = "glm4-moe",
                                           .matches = Matches,
                                           .describe = Describe,
                                           .create = Create,
                                           .sources = Sources,
                                           .gguf_architecture = "glm4moe",
                                           .config_from_gguf = GgufToConfig,
                                           .chat_format = ChatFormatName,
                                           .shapes = kShapes};

}  // namespace qianyi
