// The Open Inference Protocol (KServe v2), whichever port it comes through: text in tensors, and
// text or pictures out.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "server/image_service.h"
#include "server/text_request.h"
#include "server/text_service.h"

namespace qianyi {

struct InferRequest {
  std::variant<TextRequest, ImageRequest> work;
  std::string id;                    // the client's; may be empty
  std::vector<std::string> outputs;  // tensors that are wanted; empty: all

  bool Wants(std::string_view tensor) const;
  // On whose account it runs.
  void SetCaller(const Caller& caller, int64_t body_bytes);
};

struct InferTensor {
  std::string name;
  std::vector<int64_t> shape;
  // BYTES, INT64; of UINT8 the bytes themselves, row by row.
  std::variant<std::vector<std::string>, std::vector<int64_t>, std::string> data;

  const char* datatype() const;
};

struct InferAnswer {
  std::string model;
  std::vector<std::pair<std::string, int64_t>> parameters;  // usage and the seed
  std::vector<InferTensor> tensors;                         // those that were wanted
};

// {"id", "parameters": {…}, "inputs": [{"name": "text", "datatype": "BYTES", "shape": [1],
// "data": […]}], "outputs": [{"name"}]}, to a model of pictures or of text; gRPC's messages are
// read as the same. InvalidArgument names the member.
absl::StatusOr<InferRequest> ReadInfer(const std::string& model, bool paints,
                                       const nlohmann::json& body);

// Hears once of the end, on another thread or at once.
using InferDone = std::function<void(const absl::Status&, const InferAnswer&)>;

// Thread-safe.
class InferService {
 public:
  // Both outlive this.
  InferService(TextService& text, ImageService& images) : text_(text), images_(images) {}

  // ReadInfer for a model of this server; NotFound when there is none of that name.
  absl::StatusOr<InferRequest> Read(const std::string& model, const nlohmann::json& body) const;

  struct Call {
    bool paints = false;
    uint64_t id = 0;
  };
  absl::StatusOr<Call> Start(InferRequest request, InferDone done);
  void Cancel(Call call);  // a no-op once it has ended

  // {"name", "versions", "platform", "inputs", "outputs"}.
  static nlohmann::json Metadata(const FoundModel& model);

 private:
  TextService& text_;
  ImageService& images_;
};

nlohmann::json ServerMetadataJson();
// NotFound for a version that is not "1" or empty.
absl::Status CheckVersion(const std::string& version);

}  // namespace qianyi
