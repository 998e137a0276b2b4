// What transformers' Glm4Moe and Glm4MoeLite have in common behind attention: SwiGLU in dense
// layers, else experts beside a shared one; and a layer that predicts a second token, which is
// stored and not run.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "runtime/models/expert_names.h"
#include "runtime/models/pre_norm.h"

namespace qianyi {

struct ExpertModelConfig {
  PreNormConfig base;
  ExpertConfig experts;
  std::vector<bool> dense;   // by layer
  int64_t draft_layers = 0;  // behind the last
};
// All but base.rope and dense; errors are in the reader's status.
ExpertModelConfig ReadExpertModel(ConfigReader& reader);
// Checks between fields.
void CheckExpertModel(const ExpertModelConfig& config, ConfigReader& reader);

// The whole model, with attention listed by what is given.
void ListExpertModel(const ExpertModelConfig& config,
                     absl::FunctionRef<void(int64_t layer)> attention, TensorLister& list);

class ExpertModel : public PreNormModel {
 public:
  ExpertModel(const ExpertModelConfig& config, const ModelFile& file);

 protected:
  absl::Status Mlp(int layer, Pass& pass) const final;

 private:
  struct MlpWeights {
    int norm = -1;
    GatedWeights gated;  // of a dense layer, or the shared expert
    int64_t ffn = 0;
    std::unique_ptr<ExpertLayer> experts;  // null in a dense layer
  };

  const int64_t hidden_;
  std::vector<MlpWeights> mlps_;
};

}  // namespace qianyi
