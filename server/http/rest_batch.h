// Bodies of the endpoints that write no text.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "server/batch_request.h"

namespace qianyi {

struct RestBatch {
  BatchRequest batch;
  bool base64 = false;  // vectors as the bytes of floats, not as numbers
};

// InvalidArgument with the field at fault.
absl::StatusOr<RestBatch> ParseEmbeddings(const std::string& body);
absl::StatusOr<RestBatch> ParseScore(const std::string& body);

}  // namespace qianyi
