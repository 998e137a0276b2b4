#include "server/http/rest_json.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "absl/strings/str_format.h"
#include "server/error.h"
#include "server/http/rest_body.h"
#include "server/response_format.h"

namespace qianyi {
namespace {

using nlohmann::json;

// A string, a list of one string, or a list of token ids.
absl::Status TakePrompt(RestBody& body, CompletionInput* input) {
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

// OpenAI's older form: how many alternatives to report beside each token.
absl::Status TakeLogprobs(RestBody& body, Parameters* parameters) {
  constexpr int64_t kMost = 5;
  const json& value = body.Take("logprobs");
  if (value.is_null()) return absl::OkStatus();
  if (!value.is_number_integer() || value.get<int64_t>() < 0 || value.get<int64_t>() > kMost) {
    return BadParam("logprobs", absl::StrFormat("logprobs is %s; it must be a whole number 0..%d",
                                                Dump(value).substr(0, 60), kMost));
  }
  parameters->sampling.report_logprob = true;
  parameters->sampling.logprobs = value.get<int32_t>();
  return absl::OkStatus();
}

}  // namespace

absl::Status TakeResponseFormat(RestBody& body, const std::string& text, TextRequest* request) {
  if (body.Take("response_format").is_null()) return absl::OkStatus();
  // Once more, as the properties of a schema have an order.
  const OrderedJson ordered = ParseOrderedJson(text);
  auto form = ReadResponseFormat(Member(ordered, "response_format"));
  if (form.ok()) request->json_form = *std::move(form);
  return form.status();
}

absl::Status RefuseTopLogprobs(const Parameters& parameters, const char* remedy) {
  const auto& set = parameters.set;
  if (std::find(set.begin(), set.end(), "top_logprobs") == set.end()) return absl::OkStatus();
  return BadParam("top_logprobs", absl::StrFormat("top_logprobs means nothing here; %s", remedy));
}

absl::StatusOr<RestRequest> ParseCompletion(const std::string& text) {
  absl::StatusOr<RestBody> body = RestBody::Parse(text);
  if (!body.ok()) return body.status();
  RestRequest request;
  CompletionInput input;
  for (absl::Status status :
       {body->TakeString("model", &request.text.model), TakePrompt(*body, &input),
        body->TakeString("suffix", &input.suffix), body->TakeStream(&request),
        TakeResponseFormat(*body, text, &request.text),
        TakeLogprobs(*body, &request.text.parameters), body->TakeRest(&request.text.parameters),
        RefuseTopLogprobs(request.text.parameters, "say logprobs: 5, or ask for a chat")}) {
    if (!status.ok()) return status;
  }
  request.text.input = std::move(input);
  return request;
}

absl::StatusOr<AdapterRequest> ParseAdapter(const std::string& text) {
  absl::StatusOr<RestBody> body = RestBody::Parse(text);
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
  absl::StatusOr<RestBody> body = RestBody::Parse(text);
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
       {body->TakeString("model", &request.text.model), body->TakeStream(&request),
        body->TakeRest(&request.text.parameters),
        RefuseTopLogprobs(request.text.parameters, "ask for a completion or a chat")}) {
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
          {"total_tokens", usage.prompt_tokens + usage.completion_tokens},
          {"prompt_tokens_details", {{"cached_tokens", usage.cached_tokens}}},
          {"completion_tokens_details", {{"reasoning_tokens", usage.reasoning_tokens}}}};
}

std::string Dump(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace qianyi
