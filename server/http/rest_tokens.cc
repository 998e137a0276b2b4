// Texts to tokens and back, and what this server is.
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "server/error.h"
#include "server/http/rest_api.h"
#include "server/http/rest_body.h"
#include "server/server_info.h"

namespace qianyi {
namespace {

using nlohmann::json;
using Reply = std::shared_ptr<HttpReply>;

void Answer(const Reply& reply, const absl::StatusOr<json>& value) {
  if (!value.ok()) {
    reply->Send(ErrorResponse(value.status()));
    return;
  }
  HttpResponse response;
  response.body = Dump(*value) + "\n";
  reply->Send(std::move(response));
}

absl::StatusOr<json> TokenizeText(const std::string& text, const TextService& service) {
  absl::StatusOr<RestBody> body = RestBody::Parse(text);
  if (!body.ok()) return body.status();
  std::string model, input;
  bool commands = false;
  for (absl::Status status : {body->TakeString("model", &model), body->TakeString("text", &input),
                              body->TakeBool("commands", &commands), body->TakeRest(nullptr)}) {
    if (!status.ok()) return status;
  }
  if (body->Take("text").is_null()) return BadParam("text", "text is missing: what to tokenize");
  const absl::StatusOr<FoundModel> found = service.FindTextModel(model);
  if (!found.ok()) return found.status();
  const auto ids = found->model->tokenizer->Encode(input, commands);
  if (!ids.ok()) return WithParam(ids.status(), "text");
  return json{
      {"object", "tokens"}, {"model", found->name()}, {"tokens", *ids}, {"count", ids->size()}};
}

absl::StatusOr<json> DetokenizeIds(const std::string& text, const TextService& service) {
  absl::StatusOr<RestBody> body = RestBody::Parse(text);
  if (!body.ok()) return body.status();
  std::string model;
  const json& list = body->Take("tokens");
  std::vector<int32_t> ids;
  bool good = list.is_array();
  for (size_t i = 0; good && i < list.size(); ++i) {
    good = list[i].is_number_unsigned() && list[i].get<uint64_t>() < (1u << 31);
    if (good) ids.push_back(list[i].get<int32_t>());
  }
  if (!good) return BadParam("tokens", "tokens must be a list of token ids");
  for (absl::Status status : {body->TakeString("model", &model), body->TakeRest(nullptr)}) {
    if (!status.ok()) return status;
  }
  const absl::StatusOr<FoundModel> found = service.FindTextModel(model);
  if (!found.ok()) return found.status();
  auto decoded = found->model->tokenizer->Decode(ids);
  if (!decoded.ok()) return WithParam(decoded.status(), "tokens");
  return json{{"object", "text"}, {"model", found->name()}, {"text", *std::move(decoded)}};
}

json ServerJson(const TextService& service) {
  json limits = json::object();
  for (const auto& [name, most] : RequestLimits()) limits[std::string(name)] = most;
  json models = json::array();
  for (const auto& model : service.models()) {
    models.push_back({{"id", model->name},
                      {"family", model->engine->model().spec().family},
                      {"context_tokens", model->use().context_tokens},
                      {"batch", model->use().batch},
                      {"queue", model->engine->queue_limit()}});
  }
  return {{"object", "server"},
          {"version", ServerVersion()},
          {"uptime_seconds", service.uptime_seconds()},
          {"models", std::move(models)},
          {"limits", std::move(limits)}};
}

}  // namespace

void RestApi::AddTokenRoutes() {
  routes_.push_back({Scope::kInference, "POST", "/v1/tokenize",
                     [this](const HttpRequest& request, const Reply& reply) {
                       Answer(reply, TokenizeText(request.body, service_));
                     }});
  routes_.push_back({Scope::kInference, "POST", "/v1/detokenize",
                     [this](const HttpRequest& request, const Reply& reply) {
                       Answer(reply, DetokenizeIds(request.body, service_));
                     }});
  routes_.push_back(
      {Scope::kInference, "GET", "/v1/server",
       [this](const HttpRequest&, const Reply& reply) { Answer(reply, ServerJson(service_)); }});
}

}  // namespace qianyi
