#include "server/grpc/messages.h"

#include <string>
#include <utility>

#include "google/protobuf/descriptor.h"
#include "nlohmann/json.hpp"
#include "server/error.h"

namespace qianyi {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Reflection;

// One set field of Parameters as the JSON that REST would have sent: the table is the same.
nlohmann::json FieldJson(const v1::Parameters& message, const FieldDescriptor* field) {
  const Reflection* reflection = message.GetReflection();
  if (field->is_map()) {
    nlohmann::json object = nlohmann::json::object();
    for (const auto& [key, value] : message.logit_bias()) object[key] = value;
    return object;
  }
  if (field->is_repeated()) {
    nlohmann::json list = nlohmann::json::array();
    for (int i = 0; i < reflection->FieldSize(message, field); ++i) {
      list.push_back(reflection->GetRepeatedString(message, field, i));
    }
    return list;
  }
  if (field->cpp_type() == FieldDescriptor::CPPTYPE_DOUBLE) {
    return reflection->GetDouble(message, field);
  }
  return reflection->GetInt64(message, field);
}

absl::Status ReadParameters(const v1::Parameters& message, Parameters* parameters) {
  std::vector<const FieldDescriptor*> fields;
  message.GetReflection()->ListFields(message, &fields);
  for (const FieldDescriptor* field : fields) {
    absl::Status status = SetParameter(field->name(), FieldJson(message, field), parameters);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

TaskInput Poem(const v1::PoemTask& task) {
  TaskInput input{Task::kPoem,
                  {{"title", task.title()}, {"form", task.form()}, {"author", task.author()}}};
  if (task.has_rhyme()) input.rhyme = task.rhyme();
  input.tones = task.tones();
  return input;
}

}  // namespace

absl::StatusOr<TextRequest> ParseRequest(const v1::GenerateRequest& message) {
  TextRequest request;
  request.model = message.model();
  switch (message.input_case()) {
    case v1::GenerateRequest::kCompletion:
      request.input =
          CompletionInput{message.completion().prompt(), {}, message.completion().suffix()};
      break;
    case v1::GenerateRequest::kChat: {
      ChatInput chat;
      for (const v1::ChatMessage& entry : message.chat().messages()) {
        chat.messages.push_back({entry.role(), entry.content()});
      }
      request.input = std::move(chat);
      break;
    }
    case v1::GenerateRequest::kPoem:
      request.input = Poem(message.poem());
      break;
    case v1::GenerateRequest::kCouplet:
      request.input = TaskInput{Task::kCouplet,
                                {{"upper", message.couplet().upper()}},
                                std::nullopt,
                                message.couplet().tones()};
      break;
    case v1::GenerateRequest::kSummary:
      request.input = TaskInput{Task::kSummary, {{"text", message.summary().text()}}};
      break;
    case v1::GenerateRequest::kQuestion:
      request.input = TaskInput{
          Task::kQuestion,
          {{"question", message.question().question()}, {"persona", message.question().persona()}}};
      break;
    case v1::GenerateRequest::INPUT_NOT_SET:
      return BadParam("input",
                      "no input is set; set one of completion, chat, poem, couplet, "
                      "summary and question");
  }
  absl::Status status = ReadParameters(message.parameters(), &request.parameters);
  if (!status.ok()) return status;
  return request;
}

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const ApiError error = ToApiError(status);
  grpc::StatusCode code = static_cast<grpc::StatusCode>(status.code());
  if (error.http_status == 503) code = grpc::StatusCode::UNAVAILABLE;  // capacity, not quota
  return grpc::Status(code, error.message);
}

v1::FinishReason ToMessage(FinishReason reason) {
  if (reason == FinishReason::kLength) return v1::FINISH_REASON_LENGTH;
  return v1::FINISH_REASON_STOP;
}

void SetUsage(const Usage& usage, v1::Usage* message) {
  message->set_prompt_tokens(usage.prompt_tokens);
  message->set_completion_tokens(usage.completion_tokens);
  message->set_total_tokens(usage.prompt_tokens + usage.completion_tokens);
}

}  // namespace qianyi
