// The experts of transformers' Glm4Moe and Glm4MoeLite: fields of config.json, names of tensors.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "runtime/model_spec.h"
#include "runtime/models/config.h"
#include "runtime/models/expert_layer.h"
#include "runtime/storage/model_file.h"

namespace qianyi {

struct ExpertConfig {
  int64_t count, per_token, ffn, shared, groups, kept_groups;
  bool normalize;
  float scale;

  int64_t shared_ffn() const { return shared * ffn; }
  int64_t widest_row() const { return 2 * std::max(ffn, shared_ffn()); }
};

// n_routed_experts and its kin; errors are in the reader's status.
ExpertConfig ReadExperts(ConfigReader& reader);

// Appends the tensors of one layer to the last unit: `prefix` + gate.weight,
// gate.e_score_correction_bias, shared_experts.* and experts.E.*. Kept ones get no numbers.
void AddExperts(const ExpertConfig& config, const std::string& prefix, int64_t hidden_size,
                bool kept, ModelSpec* spec);
std::unique_ptr<ExpertLayer> FindExperts(const ExpertConfig& config, const ModelFile& file,
                                         const std::string& prefix);

// SwiGLU under one prefix: gate_proj, up_proj, down_proj.
struct GatedWeights {
  Projection gate, up, down;
};
GatedWeights FindGated(const ModelFile& file, const std::string& prefix);
// out += down(silu(gate(x)) * up(x)), over pass.wide(2 * ffn). x is another buffer.
absl::Status RunGated(const GatedWeights& weights, int64_t ffn, Tensor x, Tensor out, Pass& pass);

}  // namespace qianyi
