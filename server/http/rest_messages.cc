// The body of /v1/messages: Anthropic's words for a chat.
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "server/chat_tools.h"
#include "server/error.h"
#include "server/http/chat_shapes.h"
#include "server/http/rest_body.h"

namespace qianyi {
namespace {

using nlohmann::json;

constexpr size_t kMostMessages = 1024;

// The blocks of one message, which become one or more of ours: results of tools are messages of
// their own.
class Blocks {
 public:
  Blocks(std::string role, std::vector<ChatMessage>* messages)
      : role_(std::move(role)), messages_(messages) {}

  absl::Status Read(const OrderedJson& block, const std::string& where) {
    const OrderedJson& type = Member(block, "type");
    if (type == "text") return Text(Member(block, "text"), where + ".text");
    if (role_ == "user" && type == "tool_result") return Result(block, where);
    if (role_ == "assistant" && type == "tool_use") return Use(block, where);
    if (role_ == "assistant" && type == "thinking") return Thought(block, where);
    return BadParam(
        where + ".type",
        absl::StrFormat("%s.type must be %s; other blocks are not supported here", where,
                        role_ == "user" ? "text or tool_result" : "text, thinking or tool_use"));
  }

  // A message without a block is one of an empty text.
  void End() {
    if (!open_ && !read_) Current();
  }

 private:
  ChatMessage& Current() {
    if (!open_) messages_->push_back({role_, ""});
    open_ = read_ = true;
    return messages_->back();
  }
  absl::Status Text(const OrderedJson& text, const std::string& where) {
    if (!text.is_string()) return BadParam(where, where + " must be a string");
    Current().content += text.get<std::string>();
    return absl::OkStatus();
  }
  absl::Status Result(const OrderedJson& block, const std::string& where) {
    if (!Member(block, "tool_use_id").is_string()) {
      return BadParam(where + ".tool_use_id",
                      where + ".tool_use_id must be the id of the call that this answers");
    }
    const OrderedJson& content = Member(block, "content");
    absl::StatusOr<std::string> text = std::string();
    if (!content.is_null()) text = ReadText(content, where + ".content", {"text"});
    if (!text.ok()) return text.status();
    messages_->push_back({"tool", *std::move(text)});
    open_ = false;
    read_ = true;
    return absl::OkStatus();
  }
  absl::Status Use(const OrderedJson& block, const std::string& where) {
    const OrderedJson& input = Member(block, "input");
    if (!input.is_object()) return BadParam(where + ".input", where + ".input must be an object");
    OrderedJson call = {
        {"function",
         {{"name", Member(block, "name")},
          {"arguments", input.dump(-1, ' ', false, OrderedJson::error_handler_t::replace)}}}};
    if (Member(block, "id").is_string()) call["id"] = Member(block, "id");
    const absl::Status status =
        ReadToolCalls(OrderedJson::array({std::move(call)}), where, &Current().tool_calls);
    const std::string inner = where + "[0].function";
    return Renamed(status, {{inner.c_str(), where.c_str()}, {inner.c_str(), where.c_str()}});
  }
  absl::Status Thought(const OrderedJson& block, const std::string& where) {
    const OrderedJson& thinking = Member(block, "thinking");
    if (!thinking.is_string()) {
      return BadParam(where + ".thinking", where + ".thinking must be a string");
    }
    std::optional<std::string>& reasoning = Current().reasoning;
    reasoning = reasoning.value_or("") + thinking.get<std::string>();
    return absl::OkStatus();
  }

  const std::string role_;
  std::vector<ChatMessage>* const messages_;
  bool open_ = false;  // the last message is ours, and may grow
  bool read_ = false;  // anything
};

absl::Status ReadMessage(const OrderedJson& entry, const std::string& where,
                         std::vector<ChatMessage>* messages) {
  const OrderedJson& role = Member(entry, "role");
  if (role != "user" && role != "assistant") {
    return BadParam(where + ".role",
                    where + ".role must be user or assistant; what a system says goes to system");
  }
  Blocks blocks(role.get<std::string>(), messages);
  const OrderedJson& content = Member(entry, "content");
  if (content.is_string()) {
    return blocks.Read({{"type", "text"}, {"text", content}}, where + ".content");
  }
  if (!content.is_array()) {
    return BadParam(where + ".content",
                    where + ".content must be a string or a list of content blocks");
  }
  for (size_t i = 0; i < content.size(); ++i) {
    absl::Status status = blocks.Read(content[i], absl::StrFormat("%s.content[%d]", where, i));
    if (!status.ok()) return status;
  }
  blocks.End();
  return absl::OkStatus();
}

absl::Status TakeMessages(RestBody& body, const OrderedJson& ordered, ChatInput* chat) {
  for (const char* name : {"system", "messages"}) body.Take(name);
  const OrderedJson& system = Member(ordered, "system");
  if (!system.is_null()) {
    absl::StatusOr<std::string> text = ReadText(system, "system", {"text"});
    if (!text.ok()) return text.status();
    chat->messages.push_back({"system", *std::move(text)});
  }
  const OrderedJson& list = Member(ordered, "messages");
  if (!list.is_array() || list.empty() || list.size() > kMostMessages) {
    return BadParam("messages",
                    absl::StrFormat("messages must be a list of 1 to %d", kMostMessages));
  }
  for (size_t i = 0; i < list.size(); ++i) {
    absl::Status status = ReadMessage(list[i], absl::StrFormat("messages[%d]", i), &chat->messages);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status TakeMessagesTools(RestBody& body, const OrderedJson& ordered, ChatOptions* options) {
  for (const char* name : {"tools", "tool_choice"}) body.Take(name);
  const OrderedJson& tools = Member(ordered, "tools");
  OrderedJson functions;
  if (tools.is_array()) {
    functions = OrderedJson::array();
    for (size_t i = 0; i < tools.size(); ++i) {
      const OrderedJson& type = Member(tools[i], "type");
      if (!type.is_null() && type != "custom") {
        const std::string where = absl::StrFormat("tools[%d].type", i);
        return BadParam(where, where + " must be custom; tools that run here are not supported");
      }
      functions.push_back(AsFunction(tools[i], "input_schema"));
    }
  } else if (!tools.is_null()) {
    return BadParam("tools", "tools must be a list");
  }
  absl::Status status = ReadTools(functions, &options->tools);
  status = Renamed(status, {{".function.parameters", ".input_schema"}, {".function", ""}});
  if (!status.ok()) return status;
  const OrderedJson& choice = Member(ordered, "tool_choice");
  if (choice.is_null()) return absl::OkStatus();
  const OrderedJson& type = Member(choice, "type");
  OrderedJson ours = type == "any" ? OrderedJson("required") : type;
  if (type == "tool") {
    ours = {{"type", "function"}, {"function", {{"name", Member(choice, "name")}}}};
  } else if (type != "any" && type != "auto" && type != "none") {
    return BadParam("tool_choice.type", "tool_choice.type must be auto, any, tool or none");
  }
  const OrderedJson& disable = Member(choice, "disable_parallel_tool_use");
  if (!disable.is_null() && !disable.is_boolean()) {
    return BadParam("tool_choice.disable_parallel_tool_use",
                    "tool_choice.disable_parallel_tool_use must be true or false");
  }
  options->parallel_calls = disable != true;
  return Renamed(ReadToolChoice(ours, options), {{".function.name", ".name"}});
}

// Absent, a model does not think, as those who ask in this shape expect.
absl::Status TakeThinking(RestBody& body, ChatInput* chat) {
  chat->options.thinking = false;
  const json& thinking = body.Take("thinking");
  if (thinking.is_null()) return absl::OkStatus();
  const json type = thinking.is_object() ? thinking.value("type", json()) : json();
  if (type != "enabled" && type != "disabled" && type != "adaptive") {
    return BadParam("thinking.type", "thinking.type must be enabled, adaptive or disabled");
  }
  const json budget = thinking.value("budget_tokens", json());
  if (!budget.is_null() && !(budget.is_number_unsigned() && budget.get<uint64_t>() > 0)) {
    return BadParam("thinking.budget_tokens", "thinking.budget_tokens must be a whole number");
  }
  chat->options.thinking = type != "disabled";
  // What is adaptive is left to the model, which may not think at all.
  if (type != "adaptive") chat->thinking = chat->options.thinking;
  chat->thinking_param = "thinking";
  return absl::OkStatus();
}

absl::Status TakeParameters(RestBody& body, bool counts_only, RestRequest* request) {
  Parameters& parameters = request->text.parameters;
  if (!counts_only) {
    if (body.Take("max_tokens").is_null()) {
      return BadParam("max_tokens", "max_tokens is missing: how many tokens the answer may have");
    }
    absl::Status status = SetParameter("max_tokens", body.Take("max_tokens"), &parameters);
    if (status.ok()) {
      status = Renamed(SetParameter("stop", body.Take("stop_sequences"), &parameters),
                       {{"stop", "stop_sequences"}});
    }
    if (status.ok()) status = body.TakeBool("stream", &request->stream);
    if (!status.ok()) return status;
  }
  absl::Status status = body.TakeString("model", &request->text.model);
  if (status.ok()) status = body.TakeTier(&request->text.batch);
  if (status.ok()) status = body.TakeRest(&parameters);
  request->text.streamed = request->stream;
  if (status.ok()) status = RefuseTopLogprobs(parameters, "ask for a chat completion");
  if (status.ok() && parameters.n != 1) {
    return BadParam("n", "n must be 1 for messages; send the request again with another seed");
  }
  return status;
}

absl::StatusOr<ShapedRequest> Parse(const std::string& text, bool counts_only) {
  absl::StatusOr<RestBody> body = RestBody::Parse(text);
  if (!body.ok()) return body.status();
  const OrderedJson ordered = ParseOrderedJson(text);  // schemas in the client's order
  ShapedRequest request;
  ChatInput chat;
  absl::Status status = TakeMessages(*body, ordered, &chat);
  if (status.ok()) status = TakeMessagesTools(*body, ordered, &chat.options);
  if (status.ok()) status = TakeThinking(*body, &chat);
  if (status.ok()) status = TakeParameters(*body, counts_only, &request.rest);
  if (!status.ok()) return status;
  request.rest.text.input = std::move(chat);
  return request;
}

}  // namespace

absl::StatusOr<ShapedRequest> ParseMessages(const std::string& body) { return Parse(body, false); }

absl::StatusOr<ShapedRequest> ParseCountTokens(const std::string& body) {
  return Parse(body, true);
}

}  // namespace qianyi
