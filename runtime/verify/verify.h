// Replays fixtures made with the original model code. A folder's config.json names its
// kind in "fixture"; everything else (sizes, ids, texts) is read from the folder.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "nlohmann/json_fwd.hpp"
#include "runtime/verify/report.h"

namespace qianyi {

// Adds one line for every expected value of the folder. An error is one of the folder itself
// (missing, unreadable, of an unknown kind); differences are lines of the report.
absl::Status VerifyFolder(const std::string& folder, VerifyReport& report);

// The model kinds, "glm-blocklm", "glm-130b", "chatglm-6b", "chatglm2", "glm", "glm4": logits,
// hidden states, log-probabilities and greedy continuations of every case.
absl::Status VerifyModel(const std::string& folder, VerifyReport& report);
// Of such a folder: the object "quantized" of its cases.json, whose weights are in other files.
absl::Status VerifyQuantized(const std::string& folder, const nlohmann::json& quantized,
                             const nlohmann::json& cases, VerifyReport& report);

// "fastmoe-gates": choices, weights and losses of FastMoE's gates, and layers of experts.
absl::Status VerifyFastMoe(const std::string& folder, VerifyReport& report);

// The kind "cogview": every field and tensor by name, since its cases are of many shapes.
absl::Status VerifyCogView(const std::string& folder, VerifyReport& report);
// The kind "vqvae": each variant of its config.json by the prefix of its tensors.
absl::Status VerifyVqvae(const std::string& folder, VerifyReport& report);

// The adapter kinds, "lora" and "ptuning-v2": the same over the folder of the model that
// config.json names as base_model, with the folder's adapters.
absl::Status VerifyLora(const std::string& folder, VerifyReport& report);
absl::Status VerifyPtuning(const std::string& folder, VerifyReport& report);

}  // namespace qianyi
