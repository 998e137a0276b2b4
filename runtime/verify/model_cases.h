// The replay of one case of a model fixture.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "nlohmann/json.hpp"
#include "runtime/loaded_model.h"
#include "runtime/storage/safetensors.h"
#include "runtime/verify/report.h"

namespace qianyi {

// Largest differences allowed against float32 runs of the original code.
inline constexpr double kLogitTolerance = 1e-3;
inline constexpr double kLogprobSumTolerance = 5e-3;
// Two runs of the original are nearer than this.
inline constexpr double kBetweenOriginals = 0.02;

// Fields of a case; the default when there is none, or none of that type.
int64_t NumberOf(const nlohmann::json& fields, const char* key, int64_t absent);
std::string StringOf(const nlohmann::json& fields, const char* key);

// Adds the line of a tensor of logits, states or keys; FAIL where the file cannot be read.
void CompareTensor(const std::string& name, const std::vector<float>& actual,
                   const Safetensors& tensors, VerifyReport& report);

// Adds the line of a number that says how far two runs of the original are apart: none of ours says
// it, but where it is not small the folder's numbers are not the original's.
void CompareOriginals(const std::string& name, const nlohmann::json& stated, VerifyReport& report);

class ModelCase {
 public:
  // `fields` is an entry of cases.json, `tensors` the opened cases.safetensors, `adapter` what the
  // case runs with, or null. All outlive it.
  ModelCase(const nlohmann::json& fields, const std::vector<int32_t>& end_tokens,
            const Safetensors& tensors, LoadedModel& loaded, VerifyReport& report,
            const Adapter* adapter = nullptr);

  // Adds a line for each expected field and tensor of the case; the names of the tensors it
  // knows are added to `replayed`.
  absl::Status Replay(std::set<std::string>* replayed);
  // How far the adapter moves the logits of the full pass: the field max_abs_change_from_base.
  absl::Status ReplayChange();
  // Only the full pass, against another tensor of logits (of a variant of the model).
  absl::Status ReplayLogits(const std::string& tensor);

 private:
  struct Pass {  // outputs of a teacher-forced pass over input_ids
    std::vector<float> embedding, hidden, final_norm, logits;
  };

  absl::Status ReadInputs();
  void ReplayInputs(std::set<std::string>* replayed);
  absl::StatusOr<Pass> RunForced(const Adapter* adapter);
  struct Greedy {  // what filling the blanks greedily gave
    std::vector<std::vector<int32_t>> blanks;
    std::vector<std::vector<int32_t>> contexts;  // what all tokens saw, by blank
    std::vector<int32_t> ended;                  // the end token of each blank, or -1
    std::vector<float> logits;                   // that chose each token
    Sequence fed;
  };
  absl::StatusOr<Greedy> RunGreedy(int32_t max_tokens, const std::vector<int32_t>& end_tokens);
  // Until the case's end tokens, or the length in this field.
  absl::StatusOr<Greedy> RunBlanks(const char* length_field);

  absl::Status ReplayForced(std::set<std::string>* replayed);
  absl::Status ReplayGreedy(std::set<std::string>* replayed);
  absl::Status ReplayBlanks();
  absl::Status ReplayRefills();
  void ReplayMargin(std::vector<float> logits);
  void ReplayLogprobs(const std::vector<float>& logits);

  void Compare(const std::string& field, const std::vector<float>& actual,
               std::set<std::string>* replayed);
  void CompareIds(const std::string& field, const std::vector<int64_t>& actual,
                  const std::vector<int64_t>& expected);
  void AddNumber(const std::string& field, double actual, double expected, double tolerance);
  std::string Name(const std::string& field) const { return name_ + "." + field; }

  const nlohmann::json& fields_;
  const std::vector<int32_t>& end_tokens_;
  const Safetensors& tensors_;
  LoadedModel& loaded_;
  VerifyReport& report_;
  const Adapter* const adapter_;
  std::string name_;
  std::vector<int32_t> input_ids_;
  std::vector<int32_t> context_;  // the prompt as a user would give it
  Prompt prompt_;                 // as the model lays it out
};

}  // namespace qianyi
