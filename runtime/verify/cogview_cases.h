// What the replays of a CogView fixture share: running sequences, filling requests, comparing.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "runtime/loaded_model.h"
#include "runtime/pictures/picture_config.h"
#include "runtime/storage/safetensors.h"
#include "runtime/verify/fixture.h"
#include "runtime/verify/model_cases.h"
#include "runtime/verify/report.h"

namespace qianyi {

struct CogViewInput {
  std::vector<int32_t> ids;
  std::vector<int32_t> positions;
  int32_t sep = 0;
  int64_t first_logit = 0;
  int64_t last_logit = -1;  // one past the last; -1: to the end
};
// Outputs of one forward pass, sequence after sequence.
struct CogViewPass {
  std::vector<float> logits, final_norm;
  std::vector<std::vector<float>> hidden;  // 0: the embedding; i: after layer i
  std::map<std::string, std::vector<float>> first_layer;
};
// A request that was filled greedily.
struct CogViewFilled {
  std::vector<int32_t> output;
  std::vector<int32_t> positions;  // of the ids that were fed
  std::vector<float> logits;       // of each step, masked ones as -1e30
  std::vector<float> margins;      // between the best and the second
};

class CogViewCases {
 public:
  static absl::StatusOr<CogViewCases> Open(const std::string& folder, const PictureConfig& config,
                                           VerifyReport& report);
  void Use(LoadedModel& loaded) { loaded_ = &loaded; }

  const Safetensors& tensors() const { return tensors_; }
  std::vector<std::string> Names() const;
  const nlohmann::json& Fields(const std::string& name) const;
  bool Has(const std::string& tensor) const { return tensors_.Find(tensor) != nullptr; }
  bool HasCase(const std::string& name) const;      // and some of it is wanted
  int64_t Length(const std::string& tensor) const;  // its last dimension, 0 when absent
  absl::StatusOr<std::vector<int32_t>> Ids(const std::string& tensor) const;
  absl::StatusOr<std::vector<float>> Floats(const std::string& tensor) const;
  // NAME.input_ids (or another tensor) row by row, at NAME.position_ids or 0, 1, 2, ….
  absl::StatusOr<std::vector<CogViewInput>> Inputs(const std::string& name,
                                                   const char* tensor = "input_ids");

  absl::StatusOr<CogViewPass> Run(const std::vector<CogViewInput>& inputs,
                                  const SparseStep* sparse = nullptr) {
    return RunOn(*loaded_, inputs, sparse);
  }
  absl::StatusOr<CogViewPass> Run(const std::vector<CogViewInput>& inputs, LoadedModel& loaded) {
    return RunOn(loaded, inputs, nullptr);
  }
  // The same in several steps over one cache; `sparse`, when not empty, has one entry for each.
  absl::StatusOr<std::vector<CogViewPass>> RunInChunks(const std::vector<CogViewInput>& inputs,
                                                       const std::vector<int64_t>& ends,
                                                       const std::vector<SparseStep>& sparse = {});
  absl::StatusOr<CogViewFilled> Fill(const std::vector<int32_t>& query);

  // Each adds a line and notes that the value was replayed.
  void Compare(const std::string& tensor, const std::vector<float>& actual,
               double tolerance = kLogitTolerance);
  void CompareIds(const std::string& tensor, const std::vector<int32_t>& actual);
  void CompareNumber(const std::string& field, double actual, double tolerance);
  void CompareList(const std::string& field, const std::vector<float>& actual, double tolerance);
  // `same`: whatever else must hold.
  void CompareJson(const std::string& field, const nlohmann::json& actual, bool same = true);
  void Failed(const std::string& name, const absl::Status& status);
  void Took(const std::string& name) { replayed_.insert(name); }
  // UNKNOWN for whatever was not replayed.
  void Rest();

 private:
  CogViewCases(const PictureConfig& config, Safetensors tensors, VerifyReport& report)
      : config_(config), tensors_(std::move(tensors)), report_(&report) {}
  absl::StatusOr<CogViewPass> RunOn(LoadedModel& loaded, const std::vector<CogViewInput>& inputs,
                                    const SparseStep* sparse);
  const nlohmann::json* Field(const std::string& name) const;
  void Add(const std::string& name, double difference, double tolerance, std::string note = "");

  PictureConfig config_;
  Safetensors tensors_;
  nlohmann::json cases_;
  VerifyReport* report_;
  LoadedModel* loaded_ = nullptr;
  std::set<std::string> replayed_;
};

}  // namespace qianyi
