// Makes a folder in streaming layout from a checkpoint.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "kernels/packed.h"
#include "runtime/storage/progress.h"

namespace qianyi {

struct ConvertOptions {
  std::string source;        // a checkpoint (storage/checkpoint.h), with config.json beside it
  std::string config = {};   // text that takes the place of config.json; "" = none does
  std::string destination;   // must not exist, or be an empty folder
  PackedFormat format = {};  // of matrices and embeddings; constants stay f32
  int threads = 1;           // each holds one block and a few MiB of the source
};

// All or nothing: after an error, `destination` is as it was. Errors name the tensor, and the
// row where a weight is no finite number. Tensors the model has no use for are left out and
// reported as one note.
absl::Status Convert(const ConvertOptions& options, const ProgressFn& progress);

}  // namespace qianyi
