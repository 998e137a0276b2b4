// The body of /v1/responses: OpenAI's newer words for a chat.
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

constexpr size_t kMostItems = 1024;

// Items of the conversation so far, joined into messages: what an assistant thought, said and
// called are one message.
class Items {
 public:
  explicit Items(std::vector<ChatMessage>* messages) : messages_(messages) {}

  absl::Status Read(const OrderedJson& item, const std::string& where) {
    if (!item.is_object()) return BadParam(where, where + " must be an object");
    const OrderedJson& type = Member(item, "type");
    if (type.is_null() || type == "message") return Message(item, where);
    if (type == "function_call") return Call(item, where);
    if (type == "function_call_output") return Output(item, where);
    if (type == "reasoning") return Reasoning(item, where);
    return BadParam(where + ".type",
                    where +
                        ".type must be message, function_call, function_call_output or "
                        "reasoning; other items are not supported here");
  }

 private:
  // The assistant's message that is being told, or a new one.
  ChatMessage& Assistant(bool may_go_on) {
    if (messages_->empty() || messages_->back().role != "assistant" || !may_go_on) {
      messages_->push_back({"assistant", ""});
    }
    return messages_->back();
  }
  absl::Status Message(const OrderedJson& item, const std::string& where) {
    const OrderedJson& role = Member(item, "role");
    if (role != "user" && role != "assistant" && role != "system" && role != "developer") {
      return BadParam(where + ".role",
                      where + ".role must be user, assistant, system or developer");
    }
    absl::StatusOr<std::string> text = ReadText(Member(item, "content"), where + ".content",
                                                {"input_text", "output_text", "text"});
    if (!text.ok()) return text.status();
    if (role != "assistant") {
      messages_->push_back({role == "developer" ? "system" : role.get<std::string>(), *text});
      return absl::OkStatus();
    }
    const ChatMessage* last = messages_->empty() ? nullptr : &messages_->back();
    const bool only_thought = last != nullptr && last->content.empty() && last->tool_calls.empty();
    Assistant(only_thought).content = *std::move(text);
    return absl::OkStatus();
  }
  absl::Status Call(const OrderedJson& item, const std::string& where) {
    OrderedJson call = {
        {"function", {{"name", Member(item, "name")}, {"arguments", Member(item, "arguments")}}}};
    if (Member(item, "call_id").is_string()) call["id"] = Member(item, "call_id");
    const absl::Status status = ReadToolCalls(OrderedJson::array({std::move(call)}), where,
                                              &Assistant(/*may_go_on=*/true).tool_calls);
    const std::string inner = where + "[0].function";
    return Renamed(status, {{inner.c_str(), where.c_str()}, {inner.c_str(), where.c_str()}});
  }
  absl::Status Output(const OrderedJson& item, const std::string& where) {
    if (!Member(item, "call_id").is_string()) {
      return BadParam(where + ".call_id",
                      where + ".call_id must be the id of the call that this answers");
    }
    absl::StatusOr<std::string> text =
        ReadText(Member(item, "output"), where + ".output", {"input_text", "output_text"});
    if (!text.ok()) return text.status();
    messages_->push_back({"tool", *std::move(text)});
    return absl::OkStatus();
  }
  absl::Status Reasoning(const OrderedJson& item, const std::string& where) {
    const OrderedJson& content = Member(item, "content");
    absl::StatusOr<std::string> text = std::string();
    if (!content.is_null()) text = ReadText(content, where + ".content", {"reasoning_text"});
    if (!text.ok()) return text.status();
    if (!text->empty()) Assistant(/*may_go_on=*/false).reasoning = *std::move(text);
    return absl::OkStatus();
  }

  std::vector<ChatMessage>* const messages_;
};

absl::Status TakeInput(RestBody& body, const OrderedJson& ordered, ChatInput* chat) {
  std::string instructions;
  absl::Status status = body.TakeString("instructions", &instructions);
  if (!status.ok()) return status;
  if (!instructions.empty()) chat->messages.push_back({"system", instructions});
  body.Take("input");
  const OrderedJson& input = Member(ordered, "input");
  if (input.is_string()) {
    chat->messages.push_back({"user", input.get<std::string>()});
    return absl::OkStatus();
  }
  if (!input.is_array() || input.empty() || input.size() > kMostItems) {
    return BadParam(
        "input", absl::StrFormat("input must be a string or a list of 1 to %d items", kMostItems));
  }
  Items items(&chat->messages);
  for (size_t i = 0; i < input.size() && status.ok(); ++i) {
    status = items.Read(input[i], absl::StrFormat("input[%d]", i));
  }
  return status;
}

absl::Status TakeResponsesTools(RestBody& body, const OrderedJson& ordered, ChatOptions* options) {
  for (const char* name : {"tools", "tool_choice"}) body.Take(name);
  const OrderedJson& tools = Member(ordered, "tools");
  OrderedJson functions;
  if (tools.is_array()) {
    functions = OrderedJson::array();
    for (size_t i = 0; i < tools.size(); ++i) {
      if (Member(tools[i], "type") != "function") {
        const std::string where = absl::StrFormat("tools[%d].type", i);
        return BadParam(where, where + " must be function; tools that run here are not supported");
      }
      functions.push_back(AsFunction(tools[i], "parameters"));
    }
  } else if (!tools.is_null()) {
    return BadParam("tools", "tools must be a list");
  }
  absl::Status status = Renamed(ReadTools(functions, &options->tools), {{".function", ""}});
  if (!status.ok()) return status;
  const OrderedJson& choice = Member(ordered, "tool_choice");
  OrderedJson ours = choice;
  if (Member(choice, "type") == "function") {
    ours = {{"type", "function"}, {"function", {{"name", Member(choice, "name")}}}};
  }
  status = Renamed(ReadToolChoice(ours, options),
                   {{"{\"type\": \"function\", \"function\": {\"name\": …}}",
                     "{\"type\": \"function\", \"name\": …}"},
                    {".function.name", ".name"}});
  if (status.ok()) status = body.TakeBool("parallel_tool_calls", &options->parallel_calls);
  return status;
}

absl::Status TakeReasoning(RestBody& body, ChatInput* chat) {
  const json& reasoning = body.Take("reasoning");
  if (reasoning.is_null()) return absl::OkStatus();
  if (!reasoning.is_object()) return BadParam("reasoning", "reasoning must be an object");
  for (const auto& [name, value] : reasoning.items()) {
    if (name == "effort") continue;
    const std::string where = "reasoning." + name.substr(0, 100);
    absl::Status status = Unsupported(where, value, "remove it: what was thought is shown whole");
    if (!status.ok()) return status;
  }
  const json effort = reasoning.value("effort", json());
  if (effort.is_null()) return absl::OkStatus();
  for (const char* known : {"none", "minimal", "low", "medium", "high", "xhigh"}) {
    if (effort != known) continue;
    chat->thinking = chat->options.thinking = effort != "none";
    chat->thinking_param = "reasoning.effort";
    return absl::OkStatus();
  }
  return BadParam("reasoning.effort",
                  "reasoning.effort must be none, which turns thinking off, or minimal, low, "
                  "medium, high or xhigh, which are one here");
}

absl::Status TakeText(RestBody& body) {
  const json& text = body.Take("text");
  if (text.is_null()) return absl::OkStatus();
  if (!text.is_object()) return BadParam("text", "text must be an object");
  for (const auto& [name, value] : text.items()) {
    const bool plain =
        name == "format" && value.is_object() && value.value("type", json()) == "text";
    if (plain || (name == "verbosity" && value == "medium")) continue;
    absl::Status status = Unsupported("text." + name.substr(0, 100), value,
                                      "remove it; for a schema ask /v1/chat/completions");
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

// What would need answers to be kept, or work to go on without the client.
absl::Status RefuseKeeping(RestBody& body) {
  bool background = false;
  absl::Status status = body.RefuseStore();
  if (status.ok()) status = body.TakeBool("background", &background);
  if (status.ok()) {
    status = Unsupported("previous_response_id", body.Take("previous_response_id"),
                         "answers are not kept: send the conversation as input");
  }
  if (status.ok()) {
    status = Unsupported("conversation", body.Take("conversation"),
                         "answers are not kept: send the conversation as input");
  }
  if (!status.ok()) return status;
  if (background) return BadParam("background", "background is true, which is not supported here");
  const json& truncation = body.Take("truncation");
  if (truncation.is_null() || truncation == "disabled") return absl::OkStatus();
  return BadParam("truncation", "truncation must be disabled; shorten the input instead");
}

absl::Status TakeParameters(RestBody& body, RestRequest* request) {
  Parameters& parameters = request->text.parameters;
  absl::Status status =
      Renamed(SetParameter("max_tokens", body.Take("max_output_tokens"), &parameters),
              {{"max_tokens", "max_output_tokens"}});
  const json& options = body.Take("stream_options");
  const bool plain = options.is_object() && options.value("include_obfuscation", json()) != true;
  if (status.ok() && !options.is_null() && !plain) {
    status = BadParam("stream_options",
                      "stream_options must be an object; include_obfuscation is "
                      "not supported here");
  }
  if (status.ok()) status = body.TakeBool("stream", &request->stream);
  if (status.ok()) status = body.TakeString("model", &request->text.model);
  if (status.ok()) status = body.TakeTier(&request->text.batch);
  if (status.ok()) status = body.TakeRest(&parameters);
  request->text.streamed = request->stream;
  if (status.ok()) status = RefuseTopLogprobs(parameters, "ask for a chat completion");
  if (status.ok() && parameters.n != 1) {
    status = BadParam("n", "n must be 1 for responses; send the request again with another seed");
  }
  return status;
}

}  // namespace

absl::StatusOr<ShapedRequest> ParseResponses(const std::string& text) {
  absl::StatusOr<RestBody> body = RestBody::Parse(text);
  if (!body.ok()) return body.status();
  const OrderedJson ordered = ParseOrderedJson(text);  // schemas in the client's order
  ShapedRequest request;
  for (const char* name : {"instructions", "max_output_tokens", "metadata", "reasoning",
                           "temperature", "tools", "tool_choice", "top_p"}) {
    request.echo[name] = body->Peek(name);
  }
  ChatInput chat;
  absl::Status status = RefuseKeeping(*body);
  if (status.ok()) status = TakeInput(*body, ordered, &chat);
  if (status.ok()) status = TakeResponsesTools(*body, ordered, &chat.options);
  if (status.ok()) status = TakeReasoning(*body, &chat);
  if (status.ok()) status = TakeText(*body);
  if (status.ok()) status = TakeParameters(*body, &request.rest);
  if (!status.ok()) return status;
  request.echo["parallel_tool_calls"] = chat.options.parallel_calls;
  request.rest.text.input = std::move(chat);
  return request;
}

}  // namespace qianyi
