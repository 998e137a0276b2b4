// Requests of the Open Inference Protocol, read.
#include <string>
#include <utility>

#include "absl/strings/str_format.h"
#include "server/error.h"
#include "server/kserve.h"

namespace qianyi {
namespace {

using nlohmann::json;

json Member(const json& object, const char* name) {
  return object.is_object() ? object.value(name, json()) : json();
}

// [1] or [1, 1]: one text.
bool IsOne(const json& shape) {
  if (!shape.is_array() || shape.empty() || shape.size() > 2) return false;
  for (const json& extent : shape) {
    if (extent != 1) return false;
  }
  return true;
}

absl::Status ReadInput(const json& inputs, CompletionInput* completion) {
  if (!inputs.is_array() || inputs.size() != 1) {
    return BadParam("inputs", "inputs must be a list of one tensor, called text");
  }
  const json& tensor = inputs[0];
  if (Member(tensor, "name") != "text") {
    return BadParam("inputs[0].name", "inputs[0].name must be text, which is the only input");
  }
  if (Member(tensor, "datatype") != "BYTES") {
    return BadParam("inputs[0].datatype", "inputs[0].datatype must be BYTES");
  }
  if (!IsOne(Member(tensor, "shape"))) {
    return BadParam("inputs[0].shape",
                    "inputs[0].shape must be [1] or [1, 1]: send one request for each text");
  }
  json data = Member(tensor, "data");
  if (data.is_array() && data.size() == 1 && data[0].is_array()) data = json(data[0]);
  if (!data.is_array() || data.size() != 1 || !data[0].is_string()) {
    return BadParam("inputs[0].data", "inputs[0].data must be a list of one string");
  }
  completion->prompt = data[0].get<std::string>();
  return absl::OkStatus();
}

absl::Status ReadOutputs(const json& outputs, InferRequest* request) {
  if (outputs.is_null() || outputs == json::array()) return absl::OkStatus();
  if (!outputs.is_array()) return BadParam("outputs", "outputs must be a list");
  request->text_out = request->reasons_out = false;
  for (size_t i = 0; i < outputs.size(); ++i) {
    const json name = Member(outputs[i], "name");
    if (name != "text" && name != "finish_reason") {
      const std::string where = absl::StrFormat("outputs[%d].name", i);
      return BadParam(where, where + " must be text or finish_reason");
    }
    (name == "text" ? request->text_out : request->reasons_out) = true;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<InferRequest> ReadInfer(const std::string& model, const json& body) {
  if (!body.is_object()) return absl::InvalidArgumentError("the body must be a JSON object");
  InferRequest request;
  request.text.model = model;
  for (const auto& [name, value] : body.items()) {
    if (name == "id" || name == "parameters" || name == "inputs" || name == "outputs") continue;
    const std::string shown = name.substr(0, 100);
    return BadParam(shown, absl::StrFormat("%s is not supported here; remove it", shown));
  }
  const json id = Member(body, "id");
  if (!id.is_null() && !id.is_string()) return BadParam("id", "id must be a string");
  if (id.is_string()) request.id = id.get<std::string>();
  CompletionInput completion;
  absl::Status status = ReadInput(Member(body, "inputs"), &completion);
  if (status.ok()) status = ReadOutputs(Member(body, "outputs"), &request);
  if (!status.ok()) return status;
  const json parameters = Member(body, "parameters");
  if (!parameters.is_null() && !parameters.is_object()) {
    return BadParam("parameters", "parameters must be an object");
  }
  for (const auto& [name, value] : parameters.items()) {
    if (!IsParameter(name) || name == "top_logprobs") {  // there is no tensor for them
      const std::string where = "parameters." + name.substr(0, 100);
      return BadParam(where, absl::StrFormat("%s is not supported here; remove it", where));
    }
    if (status = SetParameter(name, value, &request.text.parameters); !status.ok()) return status;
  }
  request.text.input = std::move(completion);
  return request;
}

}  // namespace qianyi
