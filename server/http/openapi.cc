#include "server/http/openapi.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/prompts/task.h"

namespace qianyi {
namespace {

using nlohmann::json;

// What a route takes and gives, as names of schemas; an answer of another kind is a media type.
struct Description {
  const char* method;
  const char* path;
  const char* summary;
  const char* tag;
  const char* body;    // null: none
  const char* answer;  // of status 200
  bool streams = false;
};

constexpr Description kDescriptions[] = {
    {"POST", "/v1/chat/completions", "Answers a conversation", "chat", "ChatRequest",
     "ChatCompletion", true},
    {"POST", "/v1/completions", "Continues a text, or fills its blanks", "text",
     "CompletionRequest", "Completion", true},
    {"POST", "/v1/responses", "Answers a conversation, in the shape of OpenAI's responses", "chat",
     "ResponsesRequest", "Response", true},
    {"POST", "/v1/messages", "Answers a conversation, in the shape of Anthropic's messages", "chat",
     "MessagesRequest", "Message", true},
    {"POST", "/v1/messages/count_tokens", "How many tokens a conversation has as a prompt", "chat",
     "CountTokensRequest", "TokenCount"},
    {"POST", "/v1/tasks/poem", "Writes a poem that keeps its form", "tasks", "PoemRequest",
     "TaskAnswer", true},
    {"POST", "/v1/tasks/couplet", "Writes the lower line of a couplet", "tasks", "CoupletRequest",
     "TaskAnswer", true},
    {"POST", "/v1/tasks/summary", "Writes a short text about a longer one", "tasks",
     "SummaryRequest", "TaskAnswer", true},
    {"POST", "/v1/tasks/qa", "Answers a question, as somebody would", "tasks", "QuestionRequest",
     "TaskAnswer", true},
    {"GET", "/v1/tasks", "Lists the tasks, and the forms of poems", "tasks", nullptr, "List"},
    {"POST", "/v1/embeddings", "Makes vectors of texts", "vectors", "EmbeddingRequest",
     "Embeddings"},
    {"POST", "/v1/score", "Says how likely given continuations of a text are", "vectors",
     "ScoreRequest", "Scores"},
    {"POST", "/v1/tokenize", "Text to token ids", "tokens", "TokenizeRequest", "Tokens"},
    {"POST", "/v1/detokenize", "Token ids to text", "tokens", "DetokenizeRequest", "Text"},
    {"GET", "/v1/server", "What this server is and takes", "operation", nullptr, "Server"},
    {"POST", "/v1/images/generations", "Paints pictures from words", "pictures", "ImageRequest",
     "Images", true},
    {"POST", "/v1/images/edits", "Paints a part of a picture anew, or magnifies it", "pictures",
     "ImageEditRequest", "Images", true},
    {"POST", "/v1/images/captions", "Describes a picture", "pictures", "ImageCaptionRequest",
     "Captions"},
    {"GET", "/v1/models", "Lists the models and their adapters", "models", nullptr, "ModelList"},
    {"GET", "/v1/models/", "Describes a model or adapter", "models", nullptr, "Model"},
    {"POST", "/v1/adapters", "Loads an adapter", "models", "AdapterRequest", "Model"},
    {"DELETE", "/v1/adapters/", "Unloads an adapter", "models", nullptr, "Deleted"},
    {"GET", "/health/live", "Whether the process runs", "operation", nullptr, "Health"},
    {"GET", "/health/ready", "Whether it takes requests", "operation", nullptr, "Health"},
    {"GET", "/v2/health/live", "Whether the process runs", "kserve", nullptr, "Live"},
    {"GET", "/v2/health/ready", "Whether it takes requests", "kserve", nullptr, "Ready"},
    {"GET", "/v2", "The server, in KServe's words", "kserve", nullptr, "ServerMetadata"},
    {"GET", "/v2/models/{name}", "A model's tensors", "kserve", nullptr, "ModelMetadata"},
    {"GET", "/v2/models/{name}/ready", "Whether a model takes requests", "kserve", nullptr,
     "Ready"},
    {"POST", "/v2/models/{name}/infer", "Continues a text that comes in a tensor", "kserve",
     "InferRequest", "InferResponse"},
    {"GET", "/metrics", "Counters for Prometheus", "operation", nullptr, "text/plain"},
    {"GET", "/openapi.json", "This document", "operation", nullptr, "OpenApi"},
    {"GET", "/", "The playground, a page for people", "page", nullptr, "text/html"},
    {"GET", "/dashboard", "The dashboard, a page for operators", "page", nullptr, "text/html"},
    {"GET", "/web/{name}", "A file of the pages", "page", nullptr, "*/*"},
};

const Description* Find(const RouteInfo& route) {
  for (const Description& description : kDescriptions) {
    if (route.method == description.method && route.path == description.path) return &description;
  }
  return nullptr;
}

bool HasName(const RouteInfo& route) {
  return (route.path.size() > 1 && route.path.back() == '/') ||
         route.path.find("{name}") != route.path.npos;
}

json Content(const std::string& kind) {
  if (kind.find('/') != kind.npos) return {{kind, {{"schema", {{"type", "string"}}}}}};
  return {
      {"application/json", {{"schema", {{"$ref", absl::StrCat("#/components/schemas/", kind)}}}}}};
}

json Header(const char* description) {
  return {{"description", description}, {"schema", {{"type", "string"}}}};
}

// Errors that any route may answer with, and those of routes that read a body or do work.
json Errors(const RouteInfo& route, const Description* description) {
  json errors;
  const char* shape = route.path.compare(0, 3, "/v2") == 0 ? "InferError" : "Error";
  const auto add = [&](const char* status, const char* when, bool again) {
    errors[status] = {{"description", when},
                      {"headers", {{"X-Request-Id", Header("Names the request")}}},
                      {"content", Content(shape)}};
    if (again) errors[status]["headers"]["Retry-After"] = Header("Seconds to wait");
  };
  add("400", "A field is missing, unknown or out of range; or this is not HTTP", false);
  add("403", "A foreign page or name asks, or the key lacks the scope", false);
  add("413", "The body is too large", false);
  add("415", "The body is encoded", false);
  add("431", "The headers are too large", false);
  add("500", "A defect of the server", false);
  add("503", "No room for now, or the server is stopping", true);
  if (route.scope != Scope::kPublic) add("401", "The key is missing or unknown", false);
  if (HasName(route) || (description != nullptr && description->body != nullptr)) {
    add("404", "There is no such model or adapter", false);
  }
  if (route.scope == Scope::kAdmin) {
    add("409", "There is one of that name", false);
    add("501", "The operator has not turned this on", false);
  }
  if (description != nullptr && description->body != nullptr && route.scope == Scope::kInference) {
    add("429", "The key's own quota is used up", true);
    add("504", "The deadline has passed", false);
  }
  return errors;
}

json Operation(const RouteInfo& route, const Description* description) {
  json operation = {{"responses", Errors(route, description)}};
  if (route.scope == Scope::kPublic) operation["security"] = json::array();
  operation["x-scope"] = NameOf(route.scope);
  json parameters = json::array();
  if (HasName(route)) {
    parameters.push_back({{"name", "name"},
                          {"in", "path"},
                          {"required", true},
                          {"description", "MODEL or MODEL:ADAPTER"},
                          {"schema", {{"type", "string"}, {"minLength", 1}}}});
  }
  if (description == nullptr) return operation;
  operation["summary"] = description->summary;
  operation["tags"] = {description->tag};
  json& ok = operation["responses"]["200"];
  ok = {{"description", description->summary},
        {"headers", {{"X-Request-Id", Header("Names the request")}}},
        {"content", Content(description->answer)}};
  if (description->streams) ok["content"].update(Content("text/event-stream"));
  if (description->body != nullptr) {
    operation["requestBody"] = {{"required", true}, {"content", Content(description->body)}};
    parameters.push_back({{"name", "X-Priority"},
                          {"in", "header"},
                          {"description", "batch work waits until nothing else does"},
                          {"schema", {{"enum", {"interactive", "batch"}}}}});
  }
  if (!parameters.empty()) operation["parameters"] = std::move(parameters);
  return operation;
}

}  // namespace

json OpenApi(std::span<const RouteInfo> routes) {
  json paths;
  for (const RouteInfo& route : routes) {
    std::string path = route.path, method = route.method;
    if (path.size() > 1 && path.back() == '/') path += "{name}";
    for (char& c : method) c = static_cast<char>(c | 0x20);  // letters of A to Z
    paths[path][method] = Operation(route, Find(route));
  }
  const json bearer = {{"type", "http"}, {"scheme", "bearer"}};
  const json header = {{"type", "apiKey"}, {"in", "header"}, {"name", "x-api-key"}};
  return {{"openapi", "3.1.0"},
          {"info",
           {{"title", "Qianyi"},
            {"version", "1"},
            {"description",
             "Text from GLM models. Keys are asked for where the operator says so; "
             "the scope that each route needs is its x-scope."}}},
          {"paths", std::move(paths)},
          {"security", {{{"bearer", json::array()}}, {{"key", json::array()}}, json::object()}},
          {"components",
           {{"securitySchemes", {{"bearer", bearer}, {"key", header}}},
            {"schemas", OpenApiSchemas()}}}};
}

}  // namespace qianyi
