// Replays of the reference cases of tokenizers. A folder has config.json, cases.json and
// cases.safetensors; the files it names are relative to it or to its parent.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "runtime/verify/report.h"

namespace qianyi {

// Adds a line per expected value: "encode[17].ids" for cases.json, "ids.flat" for a tensor.
// Everything is exact (tolerance 0). Fields and tensors with unknown names are UNKNOWN. An error
// means that the folder cannot be replayed at all, and names the file.
absl::Status VerifyTokenizerGpt2(const std::string& folder, VerifyReport& report);
absl::Status VerifyTokenizerCog(const std::string& folder, VerifyReport& report);

}  // namespace qianyi
