#include "server/grpc/messages.h"

#include <optional>
#include <string>
#include <utility>

#include "google/protobuf/descriptor.h"
#include "nlohmann/json.hpp"
#include "runtime/chat/chat_json.h"
#include "server/chat_tools.h"
#include "server/error.h"
#include "server/grpc/error_details.h"
#include "server/response_format.h"

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

// The messages as the JSON that REST would have sent, so that one reader checks both.
OrderedJson ToolsJson(const v1::Chat& chat) {
  OrderedJson list = OrderedJson::array();
  for (const v1::Tool& tool : chat.tools()) {
    OrderedJson function = {{"name", tool.name()}};
    if (!tool.description().empty()) function["description"] = tool.description();
    if (!tool.parameters().empty()) {
      OrderedJson parameters = ParseOrderedJson(tool.parameters());
      function["parameters"] =  // what is no JSON is no object either, and refused as such
          parameters.is_discarded() ? OrderedJson(tool.parameters()) : std::move(parameters);
    }
    list.push_back({{"type", "function"}, {"function", std::move(function)}});
  }
  return list;
}

OrderedJson ToolChoiceJson(const std::string& choice) {
  if (choice.empty() || choice == "auto" || choice == "none" || choice == "required") {
    return choice.empty() ? OrderedJson() : OrderedJson(choice);
  }
  return {{"type", "function"}, {"function", {{"name", choice}}}};
}

OrderedJson ToolCallsJson(const v1::ChatMessage& message) {
  OrderedJson list = OrderedJson::array();
  for (const v1::ToolCall& call : message.tool_calls()) {
    list.push_back({{"id", call.id()},
                    {"function", {{"name", call.name()}, {"arguments", call.arguments()}}}});
  }
  return list;
}

absl::StatusOr<ChatInput> ReadChat(const v1::Chat& message) {
  ChatInput chat;
  for (int i = 0; i < message.messages_size(); ++i) {
    const v1::ChatMessage& entry = message.messages(i);
    ChatMessage read{entry.role(), entry.content()};
    if (entry.has_reasoning()) read.reasoning = entry.reasoning();
    if (!entry.tool_call_id().empty() && entry.role() != "tool") {
      const std::string id = "messages[" + std::to_string(i) + "].tool_call_id";
      return BadParam(id, id + " is for messages of the role tool; this one is of " + entry.role());
    }
    const std::string where = "messages[" + std::to_string(i) + "].tool_calls";
    absl::Status status = ReadToolCalls(ToolCallsJson(entry), where, &read.tool_calls);
    if (!status.ok()) return status;
    chat.messages.push_back(std::move(read));
  }
  absl::Status status = ReadTools(ToolsJson(message), &chat.options.tools);
  if (status.ok()) status = ReadToolChoice(ToolChoiceJson(message.tool_choice()), &chat.options);
  if (!status.ok()) return status;
  if (message.has_parallel_tool_calls()) {
    chat.options.parallel_calls = message.parallel_tool_calls();
  }
  if (message.has_thinking()) chat.thinking = message.thinking();
  chat.thinking_param = "thinking";
  chat.options.thinking = chat.thinking.value_or(true);
  return chat;
}

absl::Status ReadForm(const v1::ResponseFormat& message, std::optional<JsonSchema>* form) {
  if (message.format_case() == v1::ResponseFormat::kJsonSchema) {
    const OrderedJson schema = ParseOrderedJson(message.json_schema());
    if (schema.is_discarded()) {
      return BadParam(
          "response_format",
          "response_format.json_schema is no JSON in valid UTF-8, nested at most 64 deep");
    }
    absl::StatusOr<JsonSchema> compiled = ReadJsonSchema(schema);
    if (!compiled.ok()) return compiled.status();
    *form = *std::move(compiled);
  } else if (message.json_object()) {
    *form = AnyJsonObject();
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
      absl::StatusOr<ChatInput> chat = ReadChat(message.chat());
      if (!chat.ok()) return chat.status();
      request.input = *std::move(chat);
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
  if (status.ok()) status = ReadForm(message.response_format(), &request.json_form);
  if (!status.ok()) return status;
  return request;
}

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const ApiError error = ToApiError(status);
  grpc::StatusCode code = static_cast<grpc::StatusCode>(status.code());
  if (error.http_status == 503) code = grpc::StatusCode::UNAVAILABLE;  // capacity, not quota
  return grpc::Status(code, error.message, ErrorDetails(error, code));
}

void SetLogprob(const TokenReport& token, v1::TokenLogprob* message) {
  message->set_token(token.taken.id);
  message->set_piece(token.taken.bytes);
  message->set_logprob(static_cast<double>(token.taken.logprob));
  message->set_offset(token.offset);
  for (const TokenReport::Alternative& other : token.top) {
    v1::TokenAlternative* alternative = message->add_top();
    alternative->set_token(other.id);
    alternative->set_piece(other.bytes);
    alternative->set_logprob(static_cast<double>(other.logprob));
  }
}

void SetUsage(const Usage& usage, v1::Usage* message) {
  message->set_prompt_tokens(usage.prompt_tokens);
  message->set_completion_tokens(usage.completion_tokens);
  message->set_total_tokens(usage.prompt_tokens + usage.completion_tokens);
  message->set_cached_tokens(usage.cached_tokens);
}

}  // namespace qianyi
