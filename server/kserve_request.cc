// Requests of the Open Inference Protocol, read.
#include <algorithm>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
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

absl::Status ReadInput(const json& inputs, std::string* text) {
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
  *text = data[0].get<std::string>();
  return absl::OkStatus();
}

// What a model gives.
std::vector<std::string> OutputsOf(bool paints) {
  return paints ? std::vector<std::string>{"image", "seed"}
                : std::vector<std::string>{"text", "finish_reason"};
}

absl::Status ReadOutputs(const json& outputs, const std::vector<std::string>& known,
                         std::vector<std::string>* wanted) {
  if (outputs.is_null()) return absl::OkStatus();
  if (!outputs.is_array()) return BadParam("outputs", "outputs must be a list");
  for (size_t i = 0; i < outputs.size(); ++i) {
    const json name = Member(outputs[i], "name");
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      const std::string where = absl::StrFormat("outputs[%d].name", i);
      return BadParam(where, absl::StrFormat("%s must be %s", where, absl::StrJoin(known, " or ")));
    }
    wanted->push_back(name.get<std::string>());
  }
  return absl::OkStatus();
}

bool IsMember(const std::string& name) {
  return name == "id" || name == "parameters" || name == "inputs" || name == "outputs";
}

absl::Status NotSupported(const std::string& where) {
  return BadParam(where, absl::StrFormat("%s is not supported here; remove it", where));
}

// Parameters that fill a tensor of their own, or another form of answer, have none here.
absl::Status SetParameter(const std::string& name, const json& value, InferRequest* request) {
  const std::string where = "parameters." + name.substr(0, 100);
  if (auto* text = std::get_if<TextRequest>(&request->work)) {
    if (!IsParameter(name) || name == "top_logprobs") return NotSupported(where);
    return SetParameter(name, value, &text->parameters);
  }
  for (const char* known :
       {"n", "seed", "temperature", "top_k", "top_p", "min_p", "style", "size", "candidates"}) {
    if (name == known) return SetImageField(name, value, &std::get<ImageRequest>(request->work));
  }
  return NotSupported(where);
}

}  // namespace

absl::StatusOr<InferRequest> ReadInfer(const std::string& model, bool paints, const json& body) {
  if (!body.is_object()) return absl::InvalidArgumentError("the body must be a JSON object");
  for (const auto& [name, value] : body.items()) {
    if (!IsMember(name)) return NotSupported(name.substr(0, 100));
  }
  InferRequest request;
  const json id = Member(body, "id");
  if (!id.is_null() && !id.is_string()) return BadParam("id", "id must be a string");
  if (id.is_string()) request.id = id.get<std::string>();
  std::string prompt;
  absl::Status status = ReadInput(Member(body, "inputs"), &prompt);
  if (status.ok()) {
    status = ReadOutputs(Member(body, "outputs"), OutputsOf(paints), &request.outputs);
  }
  if (!status.ok()) return status;
  if (paints) {
    ImageRequest image;
    image.model = model;
    image.prompt = std::move(prompt);
    request.work = std::move(image);
  } else {
    TextRequest text;
    text.model = model;
    CompletionInput completion;
    completion.prompt = std::move(prompt);
    text.input = std::move(completion);
    request.work = std::move(text);
  }
  const json parameters = Member(body, "parameters");
  if (!parameters.is_null() && !parameters.is_object()) {
    return BadParam("parameters", "parameters must be an object");
  }
  for (const auto& [name, value] : parameters.items()) {
    if (status = SetParameter(name, value, &request); !status.ok()) return status;
  }
  return request;
}

}  // namespace qianyi
