// GLM-4.5, GLM-4.5-Air, GLM-4.6 and GLM-4.7 in the names of transformers' Glm4Moe: pre-norm
// RMSNorm, grouped queries with optional norms of queries and keys, half-split rotary positions on
// the first part of each head, SwiGLU in the first layers, then experts beside a shared one.
// zai-org/GLM-4.5. The layer that predicts a second token is stored and not run.
#include "runtime/models/glm4_moe.h"

#include <memory>
#include <utility>
#include <vector>

#include "nlohmann/json.hpp"
#include "runtime/models/expert_model.h"
#include "runtime/models/gguf_config.h"
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
