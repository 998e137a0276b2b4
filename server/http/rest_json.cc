#include "server/http/rest_json.h"

#include <algorithm>
#include <set>
#include <string_view>
#include <utility>

#include "absl/strings/str_format.h"
#include "runtime/parse_json.h"
#include "server/error.h"

namespace qianyi {
namespace {

using nlohmann::json;

// Fields of OpenAI's API that change nothing here.
const std::set<std::string, std::less<>>& Ignored() {
  static const std::set<std::string, std::less<>> names = {
      "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"};
  return names;
}

// Reads the members of one object; whatever nobody asked for is refused at the end.
class Body {
 public:
  static absl::StatusOr<Body> Parse(const std::string& text) {
    json value = ParseJson(text);
    if (value.is_discarded()) {
      return absl::InvalidArgumentError(
          "the body is not JSON in valid UTF-8 (nested at most 64 deep); check quotes and "
          "encoding");
    }
    if (!value.is_object()) return absl::InvalidArgumentError("the body must be a JSON object");
    return Body(std::move(value));
  }

  // Null when absent.
  const json& Take(const char* name) {
    static const json null;
    taken_.insert(name);
    const auto at = object_.find(name);
    return at == object_.end() ? null : *at;
  }
  absl::Status TakeString(const char* name, std::string* to) {
    const json& value = Take(name);
    if (value.is_null()) return absl::OkStatus();
    if (!value.is_string()) return BadParam(name, absl::StrFormat("%s must be a string", name));
    *to = value.get<std::string>();
    return absl::OkStatus();
  }
  absl::Status TakeBool(const char* name, bool* to) {
    const json& value = Take(name);
    if (value.is_null()) return absl::OkStatus();
    if (!value.is_boolean()) {
      return BadParam(name, absl::StrFormat("%s must be true or false", name));
    }
    *to = value.get<bool>();
    return absl::OkStatus();
  }
  // The parameters of the table (null: none are taken), and a refusal of what is left.
  absl::Status TakeRest(Parameters* parameters) {
    for (const auto& [name, value] : object_.items()) {
      if (taken_.count(name) != 0 || Ignored().count(name) != 0) continue;
      if (!IsParameter(name)) {
        if (value.is_null() || value == false || value == json::array()) continue;  // not asked for
        const std::string shown = name.substr(0, 100);
        return BadParam(shown, absl::StrFormat("%s is not supported here; remove it", shown));
      }
      if (parameters == nullptr) return BadParam(name, name + " means nothing here; remove it");
      if (absl::Status status = SetParameter(name, value, parameters); !status.ok()) return status;
    }
    return absl::OkStatus();
  }

 private:
  explicit Body(json object) : object_(std::move(object)) {}
  json object_;
  std::set<std::string, std::less<>> taken_;
};

absl::Status TakeStream(Body& body, RestRequest* request) {
  if (absl::Status status = body.TakeBool("stream", &request->stream); !status.ok()) return status;
  const json& options = body.Take("stream_options");
  if (options.is_null()) return absl::OkStatus();
  if (!options.is_object()) return BadParam("stream_options", "stream_options must be an object");
  const json usage = options.value("include_usage", json());
  if (!usage.is_null() && !usage.is_boolean()) {
    return BadParam("stream_options.include_usage", "include_usage must be true or false");
  }
  request->include_usage = usage == true;
  return absl::OkStatus();
}

// A string, a list of one string, or a list of token ids.
absl::Status TakePrompt(Body& body, CompletionInput* input) {
  const json& prompt = body.Take("prompt");
  if (prompt.is_string()) {
    input->prompt = prompt.get<std::string>();
    return absl::OkStatus();
  }
  if (prompt.is_array() && prompt.size() == 1 && prompt[0].is_string()) {
    input->prompt = prompt[0].get<std::string>();
    return absl::OkStatus();
  }
  const bool ids = prompt.is_array() && !prompt.empty() &&
                   std::all_of(prompt.begin(), prompt.end(), [](const json& id) {
                     return id.is_number_unsigned() && id.get<uint64_t>() < (1u << 31);
                   });
  if (!ids) {
    return BadParam("prompt",
                    "prompt must be a string, a list of one string, or a list of token ids");
  }
  input->prompt_ids = prompt.get<std::vector<int32_t>>();
  return absl::OkStatus();
}

// A string, or a list of {"type": "text", "text": …}.
absl::StatusOr<std::string> ReadContent(const json& content, const std::string& where) {
  if (content.is_string()) return content.get<std::string>();
  std::string text;
  bool good = content.is_array() && !content.empty();
  for (size_t i = 0; good && i < content.size(); ++i) {
    const json& part = content[i];
    good = part.is_object() && part.value("type", json()) == "text" && part.contains("text") &&
           part["text"].is_string();
    if (good) text += part["text"].get<std::string>();
  }
  if (good) return text;
  return BadParam(where, absl::StrFormat("%s must be a string or a list of text parts", where));
}

absl::StatusOr<std::vector<ChatMessage>> ReadMessages(const json& list) {
  constexpr size_t kMostMessages = 1024;
  if (!list.is_array() || list.empty() || list.size() > kMostMessages) {
    return BadParam("messages",
                    absl::StrFormat("messages must be a list of 1 to %d", kMostMessages));
  }
  std::vector<ChatMessage> messages;
  for (size_t i = 0; i < list.size(); ++i) {
    const std::string where = absl::StrFormat("messages[%d]", i);
    if (!list[i].is_object()) return BadParam(where, where + " must be an object");
    const json role = list[i].value("role", json());
    if (!role.is_string()) return BadParam(where + ".role", where + ".role must be a string");
    absl::StatusOr<std::string> content =
        ReadContent(list[i].value("content", json()), where + ".content");
    if (!content.ok()) return content.status();
    std::string name = role.get<std::string>();
    if (name == "developer") name = "system";
    if (name != "system" && name != "user" && name != "assistant") {
      return BadParam(where + ".role",
                      absl::StrFormat("%s.role is '%s'; it must be system, developer, user or "
                                      "assistant",
                                      where, name.substr(0, 50)));
    }
    messages.push_back({std::move(name), *std::move(content)});
  }
  if (messages.back().role != "user") {
    return BadParam("messages", "the last of messages must have the role user");
  }
  return messages;
}

}  // namespace

absl::StatusOr<RestRequest> ParseCompletion(const std::string& text) {
  absl::StatusOr<Body> body = Body::Parse(text);
  if (!body.ok()) return body.status();
  RestRequest request;
  CompletionInput input;
  for (absl::Status status :
       {body->TakeString("model", &request.text.model), TakePrompt(*body, &input),
        body->TakeString("suffix", &input.suffix), TakeStream(*body, &request),
        body->TakeRest(&request.text.parameters)}) {
    if (!status.ok()) return status;
  }
  request.text.input = std::move(input);
  return request;
}

absl::StatusOr<RestRequest> ParseChat(const std::string& text) {
  absl::StatusOr<Body> body = Body::Parse(text);
  if (!body.ok()) return body.status();
  RestRequest request;
  absl::StatusOr<std::vector<ChatMessage>> messages = ReadMessages(body->Take("messages"));
  if (!messages.ok()) return messages.status();
  for (absl::Status status :
       {body->TakeString("model", &request.text.model), TakeStream(*body, &request),
        body->TakeRest(&request.text.parameters)}) {
    if (!status.ok()) return status;
  }
  request.text.input = ChatInput{*std::move(messages)};
  return request;
}

absl::StatusOr<AdapterRequest> ParseAdapter(const std::string& text) {
  absl::StatusOr<Body> body = Body::Parse(text);
  if (!body.ok()) return body.status();
  AdapterRequest request;
  for (const auto& [name, to] :
       {std::pair("model", &request.model), {"name", &request.name}, {"path", &request.path}}) {
    if (absl::Status status = body->TakeString(name, to); !status.ok()) return status;
  }
  if (absl::Status status = body->TakeRest(nullptr); !status.ok()) return status;
  if (request.name.empty()) return BadParam("name", "name is missing: what to call the adapter");
  if (request.path.empty()) return BadParam("path", "path is missing: the adapter's folder");
  return request;
}

absl::StatusOr<RestRequest> ParseTask(Task task, const std::string& text) {
  absl::StatusOr<Body> body = Body::Parse(text);
  if (!body.ok()) return body.status();
  RestRequest request;
  TaskInput input;
  input.task = task;
  for (const TaskField& field : InfoOf(task).fields) {
    absl::Status status = body->TakeString(field.name.c_str(), &input.fields[field.name]);
    if (!status.ok()) return status;
  }
  if (task == Task::kPoem) {
    bool rhyme = false;
    if (absl::Status status = body->TakeBool("rhyme", &rhyme); !status.ok()) return status;
    if (!body->Take("rhyme").is_null()) input.rhyme = rhyme;
  }
  if (task == Task::kPoem || task == Task::kCouplet) {
    if (absl::Status status = body->TakeBool("tones", &input.tones); !status.ok()) return status;
  }
  for (absl::Status status :
       {body->TakeString("model", &request.text.model), TakeStream(*body, &request),
        body->TakeRest(&request.text.parameters)}) {
    if (!status.ok()) return status;
  }
  if (request.text.parameters.n != 1) {
    return BadParam("n", "n must be 1 for tasks; send the request again with another seed");
  }
  request.text.input = std::move(input);
  return request;
}

const char* NameOf(FinishReason reason) {
  return reason == FinishReason::kLength ? "length" : "stop";
}

json ToJson(const Usage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"completion_tokens", usage.completion_tokens},
          {"total_tokens", usage.prompt_tokens + usage.completion_tokens}};
}

std::string Dump(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace qianyi
