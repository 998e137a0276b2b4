// Reading a family's metadata from a GGUF file: each error names the key and what is allowed.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "nlohmann/json.hpp"
#include "runtime/checkpoints/gguf.h"

namespace qianyi {

// Keys without the architecture before them: "block_count" is "chatglm.block_count". Collects the
// first error, so that a family reads all it needs and then checks status().
class GgufConfig {
 public:
  GgufConfig(const Gguf& gguf, std::string_view architecture)
      : gguf_(gguf), prefix_(std::string(architecture) + ".") {}

  // A whole number, not negative; required, or with a default when absent.
  int64_t Int(std::string_view key);
  int64_t Int(std::string_view key, int64_t absent);
  double Number(std::string_view key, double absent);
  // When present, it must be this.
  void Require(std::string_view key, int64_t value);
  // Rows of token_embd.weight.
  int64_t VocabSize();
  // The ids at which generating ends, by the tokenizer's metadata and by the words of GLM's roles.
  std::vector<int64_t> EndTokens() const;

  // The fields of transformers' Glm4 and Glm4Moe that both have, but for model_type.
  nlohmann::json TransformersFields();

  const absl::Status& status() const { return status_; }

 private:
  void Fail(const std::string& what);

  const Gguf& gguf_;
  const std::string prefix_;
  absl::Status status_;
};

}  // namespace qianyi
