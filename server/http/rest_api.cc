#include "server/http/rest_api.h"

#include <string_view>
#include <utility>

#include "absl/strings/str_format.h"
#include "runtime/verse/verse_form.h"
#include "server/error.h"
#include "server/http/openapi.h"

namespace qianyi {

namespace {

using nlohmann::json;
using Reply = std::shared_ptr<HttpReply>;

void SendJson(const Reply& reply, const json& value) {
  HttpResponse response;
  response.body = Dump(value) + "\n";
  reply->Send(std::move(response));
}

// What a model does with pictures: sizes and styles that requests may name.
json PicturesJson(const PictureConfig& config, const std::vector<std::string>& sizes) {
  json styles = json::array();
  for (const auto& [name, suffix] : config.styles) styles.push_back(name);
  return {{"paints", config.paints},
          {"captions", config.captions},
          {"magnifies", config.magnifies},
          {"grid", config.grid},
          {"sizes", sizes},
          {"styles", std::move(styles)}};
}

json TasksJson() {
  json list = json::array();
  for (const TaskInfo& info : Tasks()) {
    json fields = json::array();
    for (const TaskField& field : info.fields) {
      fields.push_back({{"name", field.name}, {"required", field.required}});
    }
    json entry = {{"task", info.name}, {"fields", std::move(fields)}};
    if (info.task == Task::kPoem) entry["forms"] = VerseFormNames();
    list.push_back(std::move(entry));
  }
  return {{"object", "list"}, {"data", std::move(list)}};
}

}  // namespace

RestApi::RestApi(TextService& service, ImageService& images, AdapterAdmin& adapters,
                 const KeyRing& keys, OriginRules origins)
    : service_(service),
      images_(images),
      infer_(service, images),
      adapters_(adapters),
      keys_(keys),
      origins_(std::move(origins)) {
  AddTextRoutes();
  AddShapeRoutes();
  AddKserveRoutes();
  AddBatchRoutes();
  AddTokenRoutes();
  AddImageRoutes();
  AddAdapterRoutes();
  AddOperatorRoutes();
  AddPageRoutes();
  std::vector<RouteInfo> infos;
  for (const Route& route : routes_) infos.push_back({route.scope, route.method, route.path});
  openapi_ = OpenApi(infos);
}

void RestApi::AddTextRoutes() {
  routes_.push_back({Scope::kInference, "POST", "/v1/completions",
                     [this](const HttpRequest& request, const Reply& reply) {
                       StartText(request, ParseCompletion(request.body), MakeCompletionAnswer,
                                 reply);
                     }});
  routes_.push_back({Scope::kInference, "POST", "/v1/chat/completions",
                     [this](const HttpRequest& request, const Reply& reply) {
                       StartText(request, ParseChat(request.body), MakeChatAnswer, reply);
                     }});
  for (const TaskInfo& info : Tasks()) {
    routes_.push_back({Scope::kInference, "POST", "/v1/tasks/" + info.name,
                       [this, task = info.task](const HttpRequest& request, const Reply& reply) {
                         StartText(request, ParseTask(task, request.body), MakeTaskAnswer, reply);
                       }});
  }
  routes_.push_back({Scope::kInference, "GET", "/v1/tasks",
                     [](const HttpRequest&, const Reply& reply) { SendJson(reply, TasksJson()); }});
  routes_.push_back({Scope::kInference, "GET", "/v1/models",
                     [this](const HttpRequest&, const Reply& reply) { ListModels(reply); }});
  routes_.push_back({Scope::kInference, "GET", "/v1/models/",
                     [this](const HttpRequest& request, const Reply& reply) {
                       ShowModel(request.path.substr(sizeof("/v1/models/") - 1), reply);
                     }});
}

void RestApi::AddAdapterRoutes() {
  const auto answer = [](const Reply& reply, const absl::Status& status, json value) {
    if (status.ok()) {
      SendJson(reply, value);
    } else {
      reply->Send(ErrorResponse(status));
    }
  };
  routes_.push_back({Scope::kAdmin, "POST", "/v1/adapters",
                     [=, this](const HttpRequest& request, const Reply& reply) {
                       absl::StatusOr<AdapterRequest> wanted = ParseAdapter(request.body);
                       if (!wanted.ok()) {
                         reply->Send(ErrorResponse(wanted.status()));
                         return;
                       }
                       adapters_.Load(*wanted, [=, this](const absl::StatusOr<FoundModel>& loaded) {
                         answer(reply, loaded.status(), loaded.ok() ? ModelJson(*loaded) : json());
                       });
                     }});
  routes_.push_back({Scope::kAdmin, "DELETE", "/v1/adapters/",
                     [=, this](const HttpRequest& request, const Reply& reply) {
                       const std::string name = request.path.substr(sizeof("/v1/adapters/") - 1);
                       answer(reply, adapters_.Unload(name),
                              {{"id", name}, {"object", "model"}, {"deleted", true}});
                     }});
}

void RestApi::AddOperatorRoutes() {
  routes_.push_back(
      {Scope::kPublic, "GET", "/health/live", [](const HttpRequest&, const Reply& reply) {
         SendJson(reply, {{"status", "live"}});
       }});
  routes_.push_back(
      {Scope::kPublic, "GET", "/health/ready", [this](const HttpRequest&, const Reply& reply) {
         if (service_.draining()) {
           reply->Send(
               ErrorResponse(absl::UnavailableError("the server is shutting down; try another")));
         } else {
           SendJson(reply, {{"status", "ready"}});
         }
       }});
  routes_.push_back(
      {Scope::kInference, "GET", "/openapi.json",
       [this](const HttpRequest&, const Reply& reply) { SendJson(reply, openapi_); }});
  routes_.push_back(
      {Scope::kMetrics, "GET", "/metrics", [this](const HttpRequest& request, const Reply& reply) {
         const MetricsFormat format = PreferredMetricsFormat(request.accept);
         HttpResponse response;
         response.content_type = MetricsContentType(format);
         response.body = service_.metrics().Render(format);
         response.headers.emplace_back("Vary", "Accept");
         reply->Send(std::move(response));
       }});
}

void RestApi::StartText(const HttpRequest& http, absl::StatusOr<RestRequest> request,
                        std::unique_ptr<RestAnswer> (*make)(const RestRequest&, const Accepted&,
                                                            Reply),
                        const Reply& reply) {
  if (!request.ok()) {
    service_.metrics().CountRejected("invalid");
    reply->Send(ErrorResponse(request.status()));
    return;
  }
  Start(
      http, &request->text,
      [&](const Accepted& accepted) { return make(*request, accepted, reply); }, ErrorResponse,
      reply);
}

void RestApi::Charge(const HttpRequest& http, TextRequest* text) {
  text->caller = http.caller;
  text->batch |= http.caller.batch;
  text->body_bytes = static_cast<int64_t>(http.body.size());
}

void RestApi::Start(const HttpRequest& http, TextRequest* text,
                    const TextService::MakeListener& make,
                    HttpResponse (*refuse)(const absl::Status&), const Reply& reply) {
  Charge(http, text);
  const absl::StatusOr<uint64_t> call = service_.Start(*text, make);
  if (!call.ok()) {
    reply->Send(refuse(call.status()));
    return;
  }
  reply->OnGone([this, id = *call] { service_.Cancel(id); });
}

json RestApi::ModelJson(const FoundModel& found) const {
  const ServedModel& model = *found.model;
  const bool adapted = found.adapter != nullptr;
  json entry = {{"id", found.name()},
                {"object", "model"},
                {"created", adapted ? found.adapter->created_seconds() : model.created_seconds},
                {"owned_by", "qianyi"},
                {"root", model.name},
                {"parent", adapted ? json(model.name) : json()},
                {"family", model.engine->model().spec().family},
                {"context_tokens", model.use().context_tokens}};
  if (model.picture != nullptr) {
    entry["pictures"] = PicturesJson(*model.picture, images_.Sizes(model));
  }
  return entry;
}

void RestApi::ListModels(const Reply& reply) {
  json list = json::array();
  for (const auto& model : service_.models()) {
    list.push_back(ModelJson({model.get(), nullptr}));
    for (auto& adapter : model->engine->adapters().List()) {
      list.push_back(ModelJson({model.get(), std::move(adapter)}));
    }
  }
  SendJson(reply, {{"object", "list"}, {"data", std::move(list)}});
}

void RestApi::ShowModel(const std::string& name, const Reply& reply) {
  const absl::StatusOr<FoundModel> model = service_.FindModel(name);
  if (model.ok()) {
    SendJson(reply, ModelJson(*model));
  } else {
    reply->Send(ErrorResponse(model.status()));
  }
}

}  // namespace qianyi
