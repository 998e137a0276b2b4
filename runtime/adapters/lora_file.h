// A LoRA adapter on disk, as PEFT or SwissArmyTransformer write it: what it adds to which rows of
// which matrices. Hu et al. 2021, arXiv:2106.09685; huggingface/peft.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "nlohmann/json_fwd.hpp"
#include "runtime/storage/model_file.h"
#include "runtime/storage/safetensors.h"

namespace qianyi {

// Of everything an adapter adds to one matrix.
inline constexpr int64_t kMaxLoraRank = 256;
inline constexpr int kMaxLoraParts = 8;

// The table of contents, checked against the model. Immutable; moves, and does not copy.
class LoraFile {
 public:
  LoraFile(LoraFile&&) = default;

  // Reads adapter_config.json and the header of `weights` ("" = adapter_model.safetensors, or
  // else adapter_sat.safetensors). InvalidArgument names the file, the field or tensor and what
  // is wrong: another peft_type, biases, modules_to_save, a module that the model does not have
  // or that is missing, a wrong rank or shape. NotFound when a file is missing.
  static absl::StatusOr<LoraFile> Open(const std::string& folder, const ModelFile& model,
                                       const std::string& weights = "");

  // The same from adapter_config.json's text and a table of contents; reads nothing.
  static absl::StatusOr<LoraFile> Parse(const std::string& config, const std::string& config_path,
                                        Safetensors tensors, const ModelFile& model);

  int64_t rank() const { return rank_; }
  double alpha() const { return alpha_; }
  int64_t floats() const { return floats_; }  // that Read writes
  // Reads all weights as f32 into `memory` and lists them: tensor of the model -> what is added to
  // it. InvalidArgument names a tensor that is not finite.
  absl::Status Read(float* memory, std::vector<std::vector<LoraWeights>>* by_tensor) const;

 private:
  struct Part {  // an A and a B
    const SafetensorsEntry* a = nullptr;
    const SafetensorsEntry* b = nullptr;
    RowRuns rows;
  };
  struct Matrix {
    int tensor = -1;
    int64_t cols = 0;
    std::vector<Part> parts;
    bool stacked = false;  // rows of the parts alternate: one product for all of them
  };
  struct Targets;  // by module

  LoraFile() = default;
  absl::Status CheckConfig(const nlohmann::json& config);
  absl::Status Match(const Targets& targets);
  absl::Status AddPart(const Targets& targets, const std::string& module, const Part& part);
  absl::Status CheckTargets(const nlohmann::json& config, const Targets& targets) const;
  absl::Status CheckRows(const ModelFile& model);
  bool Covers(int tensor, const RowRuns& rows) const;
  absl::Status ReadFinite(const SafetensorsEntry& entry, float* out) const;
  absl::Status ReadPart(const Part& part, int64_t row_begin, int64_t stride, float* a,
                        float* b) const;

  Safetensors tensors_;
  std::string config_path_;
  int64_t rank_ = 0;
  double alpha_ = 0;
  float scale_ = 0;
  int64_t floats_ = 0;
  std::vector<Matrix> matrices_;
};

}  // namespace qianyi
