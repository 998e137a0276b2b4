// Replays fixtures made with the original model code. A folder's config.json names its
// kind in "fixture"; everything else (sizes, ids, texts) is read from the folder.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "runtime/verify/report.h"

namespace qianyi {

// Adds one line for every expected value of the folder. An error is one of the folder itself
// (missing, unreadable, of an unknown kind); differences are lines of the report.
absl::Status VerifyFolder(const std::string& folder, VerifyReport& report);

// The model kinds, "glm-blocklm" and "chatglm2": logits, hidden states, log-probabilities and
// greedy continuations of every case.
absl::Status VerifyModel(const std::string& folder, VerifyReport& report);

// "fastmoe-gates": choices, weights and losses of FastMoE's gates, and layers of experts.
absl::Status VerifyFastMoe(const std::string& folder, VerifyReport& report);

// The adapter kinds, "lora" and "ptuning-v2": the same over the folder of the model that
// config.json names as base_model, with the folder's adapters.
absl::Status VerifyLora(const std::string& folder, VerifyReport& report);
absl::Status VerifyPtuning(const std::string& folder, VerifyReport& report);

}  // namespace qianyi
