#include "server/grpc/requests.h"

#include <string>
#include <utility>
#include <vector>

#include "google/protobuf/descriptor.h"
#include "nlohmann/json.hpp"
#include "server/error.h"

namespace qianyi {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using nlohmann::json;

// One set field as the JSON that REST would have sent: the table is the same.
nlohmann::json FieldJson(const Message& message, const FieldDescriptor* field) {
  const google::protobuf::Reflection* reflection = message.GetReflection();
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_STRING:
      return reflection->GetString(message, field);
    case FieldDescriptor::CPPTYPE_BOOL:
      return reflection->GetBool(message, field);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return reflection->GetDouble(message, field);
    default:
      return reflection->GetInt64(message, field);
  }
}

// All fields but files.
absl::Status ReadFields(const Message& message, ImageRequest* request) {
  std::vector<const FieldDescriptor*> fields;
  message.GetReflection()->ListFields(message, &fields);
  for (const FieldDescriptor* field : fields) {
    if (field->type() == FieldDescriptor::TYPE_BYTES) continue;
    absl::Status status = SetImageField(field->name(), FieldJson(message, field), request);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::StatusOr<ImageRequest> ReadPicture(const v1::GenerateImageRequest& message, ImageWork work) {
  ImageRequest request;
  request.work = work;
  if (absl::Status status = ReadFields(message, &request); !status.ok()) return status;
  return request;
}

json ValueOf(const inference::InferParameter& parameter) {
  switch (parameter.parameter_choice_case()) {
    case inference::InferParameter::kBoolParam:
      return parameter.bool_param();
    case inference::InferParameter::kInt64Param:
      return parameter.int64_param();
    case inference::InferParameter::kStringParam:
      return parameter.string_param();
    case inference::InferParameter::kDoubleParam:
      return parameter.double_param();
    case inference::InferParameter::kUint64Param:
      return parameter.uint64_param();
    case inference::InferParameter::PARAMETER_CHOICE_NOT_SET:
      break;
  }
  return nullptr;
}

// The elements of a raw tensor; null when it ends inside one.
json RawElements(const std::string& raw) {
  json elements = json::array();
  for (size_t at = 0; at < raw.size();) {
    if (raw.size() - at < 4) return nullptr;
    uint32_t size = 0;
    for (int i = 3; i >= 0; --i) size = size << 8 | static_cast<uint8_t>(raw[at + i]);
    at += 4;
    if (raw.size() - at < size) return nullptr;
    elements.push_back(raw.substr(at, size));
    at += size;
  }
  return elements;
}

}  // namespace

absl::StatusOr<BatchRequest> ParseRequest(const v1::EmbedRequest& message) {
  EmbedRequest embed;
  for (const v1::EmbedInput& input : message.inputs()) {
    if (input.input_case() == v1::EmbedInput::INPUT_NOT_SET) {
      return BadParam("inputs", "an input has neither text nor tokens; set one of them");
    }
    if (input.has_tokens()) {
      embed.inputs.emplace_back(
          std::vector<int32_t>(input.tokens().ids().begin(), input.tokens().ids().end()));
    } else {
      embed.inputs.emplace_back(input.text());
    }
  }
  return BatchRequest{.model = message.model(), .input = std::move(embed)};
}

absl::StatusOr<BatchRequest> ParseRequest(const v1::ScoreRequest& message) {
  ScoreRequest score{message.prompt(),
                     {message.continuations().begin(), message.continuations().end()}};
  return BatchRequest{.model = message.model(), .input = std::move(score)};
}

absl::StatusOr<ImageRequest> ParseRequest(const v1::GenerateImageRequest& message) {
  return ReadPicture(message, ImageWork::kGenerate);
}

absl::StatusOr<ImageRequest> ParseRequest(const v1::EditImageRequest& message) {
  absl::StatusOr<ImageRequest> request = ReadPicture(message.picture(), ImageWork::kEdit);
  if (!request.ok()) return request;
  request->image = message.image();
  request->mask = message.mask();
  return request;
}

absl::StatusOr<ImageRequest> ParseRequest(const v1::CaptionImageRequest& message) {
  ImageRequest request;
  request.work = ImageWork::kCaption;
  if (absl::Status status = ReadFields(message, &request); !status.ok()) return status;
  request.image = message.image();
  return request;
}

json InferBody(const inference::ModelInferRequest& message) {
  json body = {{"id", message.id()}, {"parameters", json::object()}, {"inputs", json::array()}};
  for (const auto& [name, value] : message.parameters()) body["parameters"][name] = ValueOf(value);
  for (int i = 0; i < message.inputs_size(); ++i) {
    const auto& tensor = message.inputs(i);
    json shape = json::array(), data = json::array();
    for (const int64_t extent : tensor.shape()) shape.push_back(extent);
    for (const std::string& element : tensor.contents().bytes_contents()) data.push_back(element);
    if (i < message.raw_input_contents_size()) data = RawElements(message.raw_input_contents(i));
    body["inputs"].push_back({{"name", tensor.name()},
                              {"datatype", tensor.datatype()},
                              {"shape", std::move(shape)},
                              {"data", std::move(data)}});
  }
  for (const auto& output : message.outputs()) body["outputs"].push_back({{"name", output.name()}});
  return body;
}

}  // namespace qianyi
