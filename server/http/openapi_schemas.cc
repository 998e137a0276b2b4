// Schemas of the OpenAPI document. Numbers come from the table of parameters.
#include <initializer_list>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/prompts/task.h"
#include "runtime/verse/verse_form.h"
#include "server/batch_request.h"
#include "server/chat_tools.h"
#include "server/http/openapi.h"
#include "server/parameters.h"

namespace qianyi {
namespace {

using nlohmann::json;
using Names = std::initializer_list<const char*>;

json Type(const char* type) { return {{"type", type}}; }
json Or(const char* type, const char* other = "null") { return {{"type", {type, other}}}; }
json Ref(const char* name) { return {{"$ref", absl::StrCat("#/components/schemas/", name)}}; }
json ListOf(json items, int least = 0, int most = 0) {
  json list = {{"type", "array"}, {"items", std::move(items)}};
  if (least > 0) list["minItems"] = least;
  if (most > 0) list["maxItems"] = most;
  return list;
}
json OneOf(Names names) {
  json values = json::array();
  for (const char* name : names) values.push_back(name);
  return {{"enum", std::move(values)}};
}

json Object(json properties, Names required) {
  json object = {{"type", "object"}, {"properties", std::move(properties)}};
  if (required.size() > 0) object["required"] = json(required);
  return object;
}

// A body of a text route: its own members, those that all have, and the parameters.
json Body(json own, Names required, bool parameters = true) {
  json properties = parameters ? ParametersSchema() : json::object();
  properties["model"] = Or("string");
  properties["service_tier"] = OneOf({"auto", "default", "standard_only", "priority", "flex"});
  properties["stream"] = Or("boolean");
  properties["store"] = {{"enum", {false, nullptr}}};
  for (auto& [name, schema] : own.items()) properties[name] = schema;
  return Object(std::move(properties), required);
}

json OnlyOne(json body) {  // of routes with one choice
  body["properties"]["n"] = {{"type", {"integer", "null"}}, {"minimum", 1}, {"maximum", 1}};
  return body;
}

json Message() {
  json message = Object(
      {{"role", OneOf({"system", "developer", "user", "assistant", "tool"})},
       {"content",
        {{"anyOf",
          {Type("string"),
           ListOf(Object({{"type", OneOf({"text"})}, {"text", Type("string")}}, {"type", "text"}),
                  1)}}}},
       {"reasoning_content", Or("string")},
       {"tool_calls", Or("array")},
       {"tool_call_id", Type("string")}},
      {"role", "content"});
  return message;
}

json Function(const char* schema, bool nested) {
  const json name = {{"type", "string"},
                     {"pattern", absl::StrCat("^[a-zA-Z0-9_-]{1,", kMaxToolNameBytes, "}$")}};
  json function =
      Object({{"name", name}, {"description", Or("string")}, {schema, Or("object")}}, {"name"});
  if (nested) {
    return Object({{"type", OneOf({"function"})}, {"function", std::move(function)}},
                  {"type", "function"});
  }
  return function;
}

void AddRequests(json* schemas) {
  const json thinking = Object({{"type", OneOf({"enabled", "disabled"})}}, {"type"});
  const json blocks = {{"anyOf", {Type("string"), ListOf(Type("object"), 1)}}};
  const json turns = ListOf(
      Object({{"role", OneOf({"user", "assistant"})}, {"content", blocks}}, {"role", "content"}), 1,
      1024);
  const json response_format = Object(
      {{"type", OneOf({"text", "json_object", "json_schema"})},
       {"json_schema",
        Object({{"name", Type("string")}, {"schema", Type("object")}, {"strict", Or("boolean")}},
               {"name", "schema"})}},
      {"type"});
  (*schemas)["ChatRequest"] =
      Body({{"messages", ListOf(Message(), 1, 1024)},
            {"tools", ListOf(Function("parameters", true), 0, static_cast<int>(kMaxTools))},
            {"tool_choice", {{"anyOf", {OneOf({"auto", "none", "required"}), Type("object")}}}},
            {"parallel_tool_calls", Or("boolean")},
            {"logprobs", Or("boolean")},
            {"top_logprobs", {{"type", {"integer", "null"}}, {"minimum", 0}, {"maximum", 20}}},
            {"response_format", response_format},
            {"reasoning_effort", OneOf({"none", "minimal", "low", "medium", "high", "xhigh"})},
            {"thinking", thinking},
            {"stream_options", Object({{"include_usage", Or("boolean")}}, {})}},
           {"messages"});
  (*schemas)["CompletionRequest"] =
      Body({{"prompt",
             {{"anyOf",
               {Type("string"), ListOf(Type("string"), 1, 1),
                ListOf({{"type", "integer"}, {"minimum", 0}, {"maximum", 2147483647}}, 1)}}}},
            {"suffix", Or("string")},
            {"logprobs", {{"type", {"integer", "null"}}, {"minimum", 0}, {"maximum", 5}}},
            {"response_format", response_format},
            {"stream_options", Object({{"include_usage", Or("boolean")}}, {})}},
           {"prompt"});
  json limit = ParametersSchema()["max_tokens"];
  (*schemas)["ResponsesRequest"] = OnlyOne(
      Body({{"input", {{"anyOf", {Type("string"), ListOf(Type("object"), 1, 1024)}}}},
            {"instructions", Or("string")},
            {"max_output_tokens", limit},
            {"tools", ListOf(Type("object"), 0, static_cast<int>(kMaxTools))},
            {"tool_choice", {{"anyOf", {OneOf({"auto", "none", "required"}), Type("object")}}}},
            {"parallel_tool_calls", Or("boolean")},
            {"reasoning", Object({{"effort", Or("string")}}, {})},
            {"text", Type("object")}},
           {"input"}));
  const json message = {
      {"messages", turns},
      {"system", blocks},
      {"tools", ListOf(Function("input_schema", false), 0, static_cast<int>(kMaxTools))},
      {"tool_choice", Object({{"type", OneOf({"auto", "any", "tool", "none"})}}, {"type"})},
      {"thinking", Object({{"type", OneOf({"enabled", "adaptive", "disabled"})},
                           {"budget_tokens", {{"type", "integer"}, {"minimum", 1}}}},
                          {"type"})}};
  (*schemas)["CountTokensRequest"] = OnlyOne(Body(message, {"messages"}));
  json whole = message;
  limit["type"] = "integer";
  whole["max_tokens"] = limit;
  whole["stop_sequences"] = ListOf({{"type", "string"}, {"minLength", 1}, {"maxLength", 64}}, 0, 4);
  (*schemas)["MessagesRequest"] = OnlyOne(Body(whole, {"messages", "max_tokens"}));
  (*schemas)["AdapterRequest"] =
      Object({{"model", Or("string")}, {"name", Type("string")}, {"path", Type("string")}},
             {"name", "path"});
}

// As JSON; forms have the same fields.
void AddImageRequests(json* schemas) {
  const json file = {{"type", "string"}, {"description", "PNG, JPEG or WebP in base64"}};
  const json text = ParametersSchema();
  json sampling;
  for (const char* name : {"n", "seed", "temperature", "top_k", "top_p", "min_p"}) {
    sampling[name] = text[name];
  }
  sampling["model"] = Or("string");
  json paints = sampling;
  paints.update(
      {{"prompt", Type("string")},
       {"style", Or("string")},
       {"size", Or("string")},
       {"output_format", OneOf({"png", "jpeg", "webp"})},
       {"output_compression", {{"type", {"integer", "null"}}, {"minimum", 0}, {"maximum", 100}}},
       {"response_format", OneOf({"b64_json"})},
       {"return_scores", Or("boolean")},
       {"stream", Or("boolean")}});
  (*schemas)["ImageRequest"] = Object(paints, {"prompt"});
  paints["image"] = paints["mask"] = file;
  (*schemas)["ImageEditRequest"] = Object(paints, {"image"});
  sampling["image"] = file;
  (*schemas)["ImageCaptionRequest"] = Object(sampling, {"image"});
  const json count = Type("integer");
  for (const char* name : {"Images", "Captions"}) {
    (*schemas)[name] = Object({{"created", count},
                               {"model", Type("string")},
                               {"seed", count},
                               {"data", ListOf(Type("object"), 1)},
                               {"usage", Type("object")}},
                              {"created", "data"});
  }
}

// Vectors, scores and tokens.
void AddTokens(json* schemas) {
  const json text = Type("string"), count = Type("integer"), number = Type("number");
  const json id = {{"type", "integer"}, {"minimum", 0}, {"maximum", 2147483647}};
  const json usage = Object({{"prompt_tokens", count}, {"total_tokens", count}},
                            {"prompt_tokens", "total_tokens"});
  const auto list = [&](json entry) {
    return Object({{"object", OneOf({"list"})},
                   {"data", ListOf(std::move(entry), 1)},
                   {"model", text},
                   {"usage", usage}},
                  {"object", "data", "model", "usage"});
  };
  const json one = {{"anyOf", {text, ListOf(id, 1)}}};
  (*schemas)["EmbeddingRequest"] = Object(
      {{"model", Or("string")},
       {"input",
        {{"anyOf", {text, ListOf(id, 1), ListOf(one, 1, static_cast<int>(kMaxEmbeddingInputs))}}}},
       {"encoding_format", OneOf({"float", "base64"})},
       {"dimensions", {{"type", {"integer", "null"}}, {"minimum", 1}}}},
      {"input"});
  (*schemas)["Embeddings"] = list(Object({{"object", OneOf({"embedding"})},
                                          {"index", count},
                                          {"embedding", {{"anyOf", {ListOf(number, 1), text}}}}},
                                         {"object", "index", "embedding"}));
  (*schemas)["ScoreRequest"] =
      Object({{"model", Or("string")},
              {"prompt", text},
              {"continuations", ListOf(text, 1, static_cast<int>(kMaxContinuations))}},
             {"prompt", "continuations"});
  (*schemas)["Scores"] = list(Object({{"object", OneOf({"score"})},
                                      {"index", count},
                                      {"logprob", number},
                                      {"tokens", ListOf(text)},
                                      {"token_ids", ListOf(id)},
                                      {"token_logprobs", ListOf(number)}},
                                     {"object", "index", "logprob", "tokens", "token_logprobs"}));
  (*schemas)["TokenizeRequest"] =
      Object({{"model", Or("string")}, {"text", text}, {"commands", Or("boolean")}}, {"text"});
  (*schemas)["Tokens"] = Object(
      {{"object", OneOf({"tokens"})}, {"model", text}, {"tokens", ListOf(id)}, {"count", count}},
      {"object", "model", "tokens", "count"});
  (*schemas)["DetokenizeRequest"] =
      Object({{"model", Or("string")}, {"tokens", ListOf(id)}}, {"tokens"});
  (*schemas)["Text"] = Object({{"object", OneOf({"text"})}, {"model", text}, {"text", text}},
                              {"object", "model", "text"});
  (*schemas)["Server"] = Object({{"object", OneOf({"server"})},
                                 {"version", text},
                                 {"uptime_seconds", number},
                                 {"models", ListOf(Type("object"))},
                                 {"limits", Type("object")}},
                                {"object", "version", "uptime_seconds", "models", "limits"});
}

void AddTasks(json* schemas) {
  const std::pair<Task, const char*> names[] = {{Task::kPoem, "PoemRequest"},
                                                {Task::kCouplet, "CoupletRequest"},
                                                {Task::kSummary, "SummaryRequest"},
                                                {Task::kQuestion, "QuestionRequest"}};
  for (const auto& [task, name] : names) {
    json own, required = json::array();
    for (const TaskField& field : InfoOf(task).fields) {
      own[field.name] = field.required ? Type("string") : Or("string");
      if (field.required) required.push_back(field.name);
    }
    if (task == Task::kPoem) {
      own["rhyme"] = Or("boolean");
      own["form"]["examples"] = {VerseFormNames().front()};
    }
    if (task == Task::kPoem || task == Task::kCouplet) own["tones"] = Or("boolean");
    json body = OnlyOne(Body(std::move(own), {}));
    if (!required.empty()) body["required"] = std::move(required);
    (*schemas)[name] = std::move(body);
  }
}

void AddAnswers(json* schemas) {
  const json text = Type("string"), count = Type("integer");
  (*schemas)["Usage"] = Object(
      {{"prompt_tokens", count},
       {"completion_tokens", count},
       {"total_tokens", count},
       {"prompt_tokens_details", Object({{"cached_tokens", count}}, {"cached_tokens"})},
       {"completion_tokens_details", Object({{"reasoning_tokens", count}}, {"reasoning_tokens"})}},
      {"prompt_tokens", "completion_tokens", "total_tokens"});
  const json usage = Ref("Usage");
  const json choice =
      Object({{"index", count}, {"finish_reason", OneOf({"stop", "length", "tool_calls"})}},
             {"index", "finish_reason"});
  const auto completion = [&](const char* object) {
    return Object({{"id", text},
                   {"object", OneOf({object})},
                   {"created", count},
                   {"model", text},
                   {"choices", ListOf(choice, 1)},
                   {"usage", usage},
                   {"seed", count}},
                  {"id", "object", "created", "model", "choices", "usage"});
  };
  (*schemas)["ChatCompletion"] = completion("chat.completion");
  (*schemas)["Completion"] = completion("text_completion");
  (*schemas)["TaskAnswer"] = Object({{"id", text},
                                     {"object", text},
                                     {"created", count},
                                     {"model", text},
                                     {"text", text},
                                     {"lines", ListOf(text)},
                                     {"finish_reason", OneOf({"stop", "length"})},
                                     {"usage", usage},
                                     {"seed", count}},
                                    {"id", "object", "model", "text", "lines", "usage"});
  (*schemas)["Response"] = Object({{"id", text},
                                   {"object", OneOf({"response"})},
                                   {"status", OneOf({"completed", "incomplete", "failed"})},
                                   {"output", ListOf(Type("object"), 1)}},
                                  {"id", "object", "created_at", "status", "model", "output"});
  (*schemas)["Message"] =
      Object({{"id", text},
              {"type", OneOf({"message"})},
              {"role", OneOf({"assistant"})},
              {"content", ListOf(Type("object"), 1)},
              {"stop_reason", OneOf({"end_turn", "max_tokens", "stop_sequence", "tool_use"})}},
             {"id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage"});
  (*schemas)["TokenCount"] = Object({{"input_tokens", count}}, {"input_tokens"});
  (*schemas)["Model"] = Object({{"id", text},
                                {"object", OneOf({"model"})},
                                {"created", count},
                                {"owned_by", text},
                                {"parent", Or("string")},
                                {"context_tokens", count}},
                               {"id", "object", "created", "owned_by"});
  (*schemas)["List"] =
      Object({{"object", OneOf({"list"})}, {"data", ListOf(Type("object"))}}, {"object", "data"});
  (*schemas)["ModelList"] =
      Object({{"object", OneOf({"list"})}, {"data", ListOf(Ref("Model"))}}, {"object", "data"});
  const json extents = ListOf(count, 1);
  json parameters = ParametersSchema();
  parameters.update({{"style", text}, {"size", text}, {"candidates", count}});  // of pictures
  const auto tensor = [&](json more, Names required) {
    json one = Object(
        {{"name", text}, {"datatype", OneOf({"BYTES", "INT64", "UINT8"})}, {"shape", extents}},
        required);
    one["properties"].update(more);
    return one;
  };
  json input = tensor({{"name", OneOf({"text"})},
                       {"datatype", OneOf({"BYTES"})},
                       {"shape", {{"enum", {json::array({1}), json::array({1, 1})}}}},
                       {"data", ListOf(text, 1, 1)}},
                      {"name", "datatype", "shape", "data"});
  (*schemas)["InferRequest"] = Object(
      {{"id", text},
       {"parameters", Object(parameters, {})},
       {"inputs", ListOf(std::move(input), 1, 1)},
       {"outputs",
        ListOf(Object({{"name", OneOf({"text", "finish_reason", "image", "seed"})}}, {"name"}))}},
      {"inputs"});
  (*schemas)["InferResponse"] =
      Object({{"model_name", text},
              {"id", text},
              {"outputs",
               ListOf(tensor({{"data", Type("array")}}, {"name", "datatype", "shape", "data"}))}},
             {"model_name", "outputs"});
  const json tensors = ListOf(tensor(json::object(), {"name", "datatype", "shape"}));
  (*schemas)["ModelMetadata"] =
      Object({{"name", text}, {"platform", text}, {"inputs", tensors}, {"outputs", tensors}},
             {"name", "platform", "inputs", "outputs"});
  (*schemas)["ServerMetadata"] =
      Object({{"name", text}, {"version", text}, {"extensions", ListOf(text)}},
             {"name", "version", "extensions"});
  (*schemas)["Live"] = Object({{"live", Type("boolean")}}, {"live"});
  (*schemas)["Ready"] = Object({{"ready", Type("boolean")}}, {"ready"});
  // A string of this server's own, an object where nobody was let in.
  (*schemas)["InferError"] = Object({{"error", Or("string", "object")}}, {"error"});
  (*schemas)["Deleted"] = Object({{"id", text}, {"deleted", Type("boolean")}}, {"id", "deleted"});
  (*schemas)["Health"] = Object({{"status", text}}, {"status"});
  (*schemas)["OpenApi"] = Object({{"openapi", text}}, {"openapi"});
  (*schemas)["Error"] = Object(
      {{"error",
        Object({{"message", text}, {"type", text}, {"param", Or("string")}, {"code", Or("string")}},
               {"message", "type", "param", "code"})}},
      {"error"});
}

}  // namespace

json OpenApiSchemas() {
  json schemas;
  AddRequests(&schemas);
  AddImageRequests(&schemas);
  AddTokens(&schemas);
  AddTasks(&schemas);
  AddAnswers(&schemas);
  return schemas;
}

}  // namespace qianyi
