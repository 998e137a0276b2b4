// Adapters of random weights for any model, written as PEFT and P-tuning v2 write them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "runtime/storage/model_file.h"
#include "tests/support/safetensors_text.h"

namespace qianyi::testing {

// Small values around 0; `seed` decides them.
std::vector<float> SmallValues(int64_t count, uint64_t seed);

struct LoraFolder {
  std::vector<std::string> targets;
  int64_t rank = 4;
  double alpha = 8;
  uint64_t seed = 1;

  nlohmann::json Config() const;
  // Pairs for every matrix or alias of the model whose name ends in a target.
  std::vector<TestTensor> Tensors(const ModelFile& model) const;
  void Write(const ModelFile& model, const std::string& folder) const;
};

struct PrefixFolder {
  int64_t slots = 5;
  int64_t inner = 0;  // 0: without projection
  uint64_t seed = 1;

  std::vector<TestTensor> Tensors(const KvSpec& kv) const;
  void Write(const ModelFile& model, const std::string& folder) const;
};

}  // namespace qianyi::testing
