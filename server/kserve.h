// The Open Inference Protocol (KServe v2), whichever port it comes through: text in tensors.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "server/text_call.h"
#include "server/text_request.h"
#include "server/text_service.h"

namespace qianyi {

struct InferRequest {
  TextRequest text;
  std::string id;           // the client's; may be empty
  bool text_out = true;     // the output "text" is wanted
  bool reasons_out = true;  // "finish_reason"
};

// {"id", "parameters": {…}, "inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data":
// […]}], "outputs": [{"name"}]}; gRPC's messages are read as the same. InvalidArgument names the
// member.
absl::StatusOr<InferRequest> ReadInfer(const std::string& model, const nlohmann::json& body);

struct InferAnswer {
  std::vector<std::string> texts;  // of each choice
  std::vector<std::string> reasons;
  Usage usage;
  uint64_t seed = 0;
  std::string model;
};

// Starts it; `done` hears once of the end, on another thread or at once.
using InferDone = std::function<void(const absl::Status&, const InferAnswer&)>;
absl::StatusOr<uint64_t> StartInfer(TextService& service, const InferRequest& request,
                                    InferDone done);

// {"name", "versions", "platform", "inputs", "outputs"}.
nlohmann::json InferMetadata(const FoundModel& model);
nlohmann::json ServerMetadataJson();
// NotFound for a version that is not "1" or empty.
absl::Status CheckVersion(const std::string& version);

}  // namespace qianyi
