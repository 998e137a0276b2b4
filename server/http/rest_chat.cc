// The body of a chat completion: messages, tools, and whether the model thinks.
#include <cstddef>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "runtime/chat/chat_json.h"
#include "server/chat_tools.h"
#include "server/error.h"
#include "server/http/rest_body.h"
#include "server/http/rest_json.h"

namespace qianyi {
namespace {

using nlohmann::json;

// A string, or a list of {"type": "text", "text": …}.
absl::StatusOr<std::string> ReadContent(const OrderedJson& content, const std::string& where) {
  if (content.is_string()) return content.get<std::string>();
  std::string text;
  bool good = content.is_array() && !content.empty();
  for (size_t i = 0; good && i < content.size(); ++i) {
    const OrderedJson& part = content[i];
    good = Member(part, "type") == "text" && Member(part, "text").is_string();
    if (good) text += Member(part, "text").get<std::string>();
  }
  if (good) return text;
  return BadParam(where, absl::StrFormat("%s must be a string or a list of text parts", where));
}

// What an assistant said or asked for; content may be absent beside calls.
absl::Status ReadAssistant(const OrderedJson& entry, const std::string& where,
                           ChatMessage* message) {
  const OrderedJson& reasoning = Member(entry, "reasoning_content");
  if (reasoning.is_string()) message->reasoning = reasoning.get<std::string>();
  if (!reasoning.is_string() && !reasoning.is_null()) {
    return BadParam(where + ".reasoning_content", where + ".reasoning_content must be a string");
  }
  return ReadToolCalls(Member(entry, "tool_calls"), where + ".tool_calls", &message->tool_calls);
}

absl::StatusOr<ChatMessage> ReadMessage(const OrderedJson& entry, const std::string& where) {
  if (!entry.is_object()) return BadParam(where, where + " must be an object");
  const OrderedJson& role = Member(entry, "role");
  if (!role.is_string()) return BadParam(where + ".role", where + ".role must be a string");
  ChatMessage message{role.get<std::string>(), ""};
  if (message.role == "developer") message.role = "system";
  if (message.role != "system" && message.role != "user" && message.role != "assistant" &&
      message.role != "tool") {
    return BadParam(where + ".role",
                    absl::StrFormat("%s.role is '%s'; it must be system, developer, user, "
                                    "assistant or tool",
                                    where, message.role.substr(0, 50)));
  }
  if (message.role == "assistant") {
    if (absl::Status status = ReadAssistant(entry, where, &message); !status.ok()) return status;
  }
  if (message.role == "tool" && !Member(entry, "tool_call_id").is_string()) {
    return BadParam(where + ".tool_call_id",
                    where + ".tool_call_id must be the id of the call that this answers");
  }
  const OrderedJson& content = Member(entry, "content");
  if (content.is_null() && !message.tool_calls.empty()) return message;
  absl::StatusOr<std::string> text = ReadContent(content, where + ".content");
  if (!text.ok()) return text.status();
  message.content = *std::move(text);
  return message;
}

absl::Status ReadMessages(const OrderedJson& list, std::vector<ChatMessage>* messages) {
  constexpr size_t kMostMessages = 1024;
  if (!list.is_array() || list.empty() || list.size() > kMostMessages) {
    return BadParam("messages",
                    absl::StrFormat("messages must be a list of 1 to %d", kMostMessages));
  }
  for (size_t i = 0; i < list.size(); ++i) {
    absl::StatusOr<ChatMessage> message = ReadMessage(list[i], absl::StrFormat("messages[%d]", i));
    if (!message.ok()) return message.status();
    messages->push_back(*std::move(message));
  }
  return absl::OkStatus();
}

// {`member`: …}, with no other members.
absl::Status OnlyMember(const json& object, const char* name, const char* member) {
  if (!object.is_object()) return BadParam(name, absl::StrFormat("%s must be an object", name));
  for (auto at = object.begin(); at != object.end(); ++at) {
    if (at.key() == member) continue;
    const std::string where = absl::StrFormat("%s.%s", name, at.key().substr(0, 100));
    return BadParam(where, absl::StrFormat("%s is not supported here; remove it", where));
  }
  return absl::OkStatus();
}

// Three ways to say whether the model thinks before it answers; one that says no decides.
absl::Status TakeThinking(RestBody& body, ChatInput* chat) {
  const auto say = [&](bool thinks, const char* param) {
    if (chat->thinking.has_value() && (thinks || !*chat->thinking)) return;
    chat->thinking = thinks;
    chat->thinking_param = param;
  };
  const json& kwargs = body.Take("chat_template_kwargs");
  if (!kwargs.is_null()) {
    constexpr char kParam[] = "chat_template_kwargs.enable_thinking";
    absl::Status status = OnlyMember(kwargs, "chat_template_kwargs", "enable_thinking");
    if (!status.ok()) return status;
    const json enable = kwargs.value("enable_thinking", json());
    if (enable.is_boolean()) say(enable.get<bool>(), kParam);
    if (!enable.is_boolean() && !enable.is_null()) {
      return BadParam(kParam, "chat_template_kwargs.enable_thinking must be true or false");
    }
  }
  const json& thinking = body.Take("thinking");
  if (!thinking.is_null()) {
    absl::Status status = OnlyMember(thinking, "thinking", "type");
    if (!status.ok()) return status;
    const json type = thinking.value("type", json());
    if (type != "enabled" && type != "disabled") {
      return BadParam("thinking.type", "thinking.type must be enabled or disabled");
    }
    say(type == "enabled", "thinking");
  }
  const json& effort = body.Take("reasoning_effort");
  if (effort.is_null()) return absl::OkStatus();
  for (const char* known : {"none", "minimal", "low", "medium", "high", "xhigh"}) {
    if (effort != known) continue;
    say(effort != "none", "reasoning_effort");
    return absl::OkStatus();
  }
  return BadParam("reasoning_effort",
                  "reasoning_effort must be none, which turns thinking off, or minimal, low, "
                  "medium, high or xhigh, which are one here");
}

absl::Status TakeChatTools(RestBody& body, const OrderedJson& ordered, ChatOptions* options) {
  for (const char* name : {"tools", "tool_choice"}) body.Take(name);
  absl::Status status = ReadTools(Member(ordered, "tools"), &options->tools);
  if (status.ok()) status = ReadToolChoice(Member(ordered, "tool_choice"), options);
  if (status.ok()) status = body.TakeBool("parallel_tool_calls", &options->parallel_calls);
  return status;
}

}  // namespace

absl::StatusOr<RestRequest> ParseChat(const std::string& text) {
  absl::StatusOr<RestBody> body = RestBody::Parse(text);
  if (!body.ok()) return body.status();
  // Once more, as a model is shown the members of a schema in the client's order.
  const OrderedJson ordered = ParseOrderedJson(text);
  RestRequest request;
  ChatInput chat;
  body->Take("messages");
  absl::Status status = ReadMessages(Member(ordered, "messages"), &chat.messages);
  if (!status.ok()) return status;
  if (status = TakeChatTools(*body, ordered, &chat.options); !status.ok()) return status;
  if (status = TakeThinking(*body, &chat); !status.ok()) return status;
  chat.options.thinking = chat.thinking.value_or(true);
  bool logprobs = false;
  for (absl::Status rest :
       {body->TakeString("model", &request.text.model), body->TakeStream(&request),
        TakeResponseFormat(*body, text, &request.text), body->TakeBool("logprobs", &logprobs),
        body->TakeRest(&request.text.parameters)}) {
    if (!rest.ok()) return rest;
  }
  if (!logprobs) {
    status = RefuseTopLogprobs(request.text.parameters, "say logprobs: true beside it");
    if (!status.ok()) return status;
  }
  request.text.parameters.sampling.report_logprob = logprobs;
  request.text.input = std::move(chat);
  return request;
}

}  // namespace qianyi
