// One layer of experts as FastMoE keeps it, run over the same store and cache as a model's.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/kv_cache.h"
#include "runtime/models/expert_layer.h"
#include "runtime/pass.h"
#include "runtime/storage/safetensors.h"
#include "runtime/storage/weight_store.h"

namespace qianyi {

// How FastMoE's experts are stored: experts.E.htoh4.weight [1, ffn, d] with biases [1, ffn], which
// may differ in ffn, or all in one, experts.htoh4.weight [experts, ffn, d]; likewise h4toh.
class FastMoeWeights {
 public:
  // `weights` outlives this. InvalidArgument names a tensor that is missing or has another shape.
  static absl::StatusOr<FastMoeWeights> Find(const Safetensors& weights);

  int64_t experts() const { return experts_; }
  int64_t model_size() const { return model_size_; }
  int64_t ffn(int64_t expert) const { return ffn_[expert]; }
  // "htoh4" or "h4toh", "weight" or "bias", of one expert, row-major.
  absl::StatusOr<std::vector<float>> Read(int64_t expert, const std::string& matrix,
                                          const std::string& part) const;
  absl::StatusOr<std::vector<float>> Gate(const std::string& part) const;  // "weight" or "bias"

 private:
  const Safetensors* weights_ = nullptr;
  int64_t experts_ = 0;
  int64_t model_size_ = 0;
  std::vector<int64_t> ffn_;
};

class FastMoeLayer {
 public:
  // Writes the layer into `folder` in streaming layout and opens it for steps of `tokens`.
  static absl::StatusOr<std::unique_ptr<FastMoeLayer>> Open(const FastMoeWeights& weights,
                                                            const std::string& folder,
                                                            int64_t tokens);
  ~FastMoeLayer();

  struct Output {
    std::vector<int32_t> chosen;  // [tokens, top_k], -1 = dropped
    std::vector<float> weights;   // [tokens, top_k]
    std::vector<float> rows;      // [tokens, model_size]
  };
  // `input` [tokens, model_size]; `uniform` [tokens] or null.
  absl::StatusOr<Output> Run(ExpertLayer::Gating gating, const std::vector<float>& input,
                             const float* uniform);

 private:
  FastMoeLayer() = default;

  int64_t tokens_ = 0;
  std::unique_ptr<WeightStore> store_;
  std::unique_ptr<KvCache> kv_;
  Stream stream_;
  std::unique_ptr<Pass> pass_;
};

}  // namespace qianyi
