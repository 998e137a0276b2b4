#include "server/http/rest_api.h"

#include <string_view>
#include <utility>

#include "absl/strings/str_format.h"
#include "runtime/verse/verse_form.h"
#include "server/error.h"

namespace qianyi {

extern const std::string_view web_index_html;
extern const std::string_view web_app_css;
extern const std::string_view web_app_js;
extern const std::string_view web_icon_svg;

namespace {

using nlohmann::json;
using Reply = std::shared_ptr<HttpReply>;

void SendJson(const Reply& reply, const json& value) {
  HttpResponse response;
  response.body = Dump(value) + "\n";
  reply->Send(std::move(response));
}

json ModelJson(const FoundModel& found) {
  const ServedModel& model = *found.model;
  const bool adapted = found.adapter != nullptr;
  return {{"id", found.name()},
          {"object", "model"},
          {"created", adapted ? found.adapter->created_seconds() : model.created_seconds},
          {"owned_by", "qianyi"},
          {"root", model.name},
          {"parent", adapted ? json(model.name) : json()},
          {"family", model.engine->model().spec().family},
          {"context_tokens", model.use().context_tokens}};
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

// Counts what is sent.
class CountedReply final : public HttpReply {
 public:
  CountedReply(Reply to, ServerMetrics& metrics, std::string handler, std::string method)
      : to_(std::move(to)),
        metrics_(metrics),
        handler_(std::move(handler)),
        method_(std::move(method)) {}
  void Send(HttpResponse response) override {
    metrics_.CountHttp(handler_, method_, response.status);
    to_->Send(std::move(response));
  }
  void BeginStream(HttpResponse head) override {
    metrics_.CountHttp(handler_, method_, head.status);
    to_->BeginStream(std::move(head));
  }
  void Write(std::string bytes) override { to_->Write(std::move(bytes)); }
  void EndStream() override { to_->EndStream(); }
  void OnGone(std::function<void()> callback) override { to_->OnGone(std::move(callback)); }

 private:
  const Reply to_;
  ServerMetrics& metrics_;
  const std::string handler_;
  const std::string method_;
};

// Methods are a short known list in a label, whatever the client sent.
std::string KnownMethod(const std::string& method) {
  for (const char* known : {"GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"}) {
    if (method == known) return method;
  }
  return "other";
}

}  // namespace

RestApi::RestApi(TextService& service, AdapterAdmin& adapters)
    : service_(service), adapters_(adapters) {
  AddTextRoutes();
  AddAdapterRoutes();
  AddOperatorRoutes();
  AddPageRoutes();
}

void RestApi::AddTextRoutes() {
  routes_.push_back(
      {"POST", "/v1/completions", [this](const HttpRequest& request, const Reply& reply) {
         StartText(ParseCompletion(request.body), MakeCompletionAnswer, reply);
       }});
  routes_.push_back(
      {"POST", "/v1/chat/completions", [this](const HttpRequest& request, const Reply& reply) {
         StartText(ParseChat(request.body), MakeChatAnswer, reply);
       }});
  for (const TaskInfo& info : Tasks()) {
    routes_.push_back({"POST", "/v1/tasks/" + info.name,
                       [this, task = info.task](const HttpRequest& request, const Reply& reply) {
                         StartText(ParseTask(task, request.body), MakeTaskAnswer, reply);
                       }});
  }
  routes_.push_back({"GET", "/v1/tasks",
                     [](const HttpRequest&, const Reply& reply) { SendJson(reply, TasksJson()); }});
  routes_.push_back(
      {"GET", "/v1/models", [this](const HttpRequest&, const Reply& reply) { ListModels(reply); }});
  routes_.push_back({"GET", "/v1/models/", [this](const HttpRequest& request, const Reply& reply) {
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
  routes_.push_back(
      {"POST", "/v1/adapters", [=, this](const HttpRequest& request, const Reply& reply) {
         absl::StatusOr<AdapterRequest> wanted = ParseAdapter(request.body);
         if (!wanted.ok()) {
           reply->Send(ErrorResponse(wanted.status()));
           return;
         }
         adapters_.Load(*wanted, [=](const absl::StatusOr<FoundModel>& loaded) {
           answer(reply, loaded.status(), loaded.ok() ? ModelJson(*loaded) : json());
         });
       }});
  routes_.push_back(
      {"DELETE", "/v1/adapters/", [=, this](const HttpRequest& request, const Reply& reply) {
         const std::string name = request.path.substr(sizeof("/v1/adapters/") - 1);
         answer(reply, adapters_.Unload(name),
                {{"id", name}, {"object", "model"}, {"deleted", true}});
       }});
}

void RestApi::AddOperatorRoutes() {
  routes_.push_back({"GET", "/health/live", [](const HttpRequest&, const Reply& reply) {
                       SendJson(reply, {{"status", "live"}});
                     }});
  routes_.push_back({"GET", "/health/ready", [this](const HttpRequest&, const Reply& reply) {
                       if (service_.draining()) {
                         reply->Send(ErrorResponse(
                             absl::UnavailableError("the server is shutting down; try another")));
                       } else {
                         SendJson(reply, {{"status", "ready"}});
                       }
                     }});
  routes_.push_back({"GET", "/metrics", [this](const HttpRequest&, const Reply& reply) {
                       HttpResponse response;
                       response.content_type = "text/plain; version=0.0.4; charset=utf-8";
                       response.body = service_.metrics().Render();
                       reply->Send(std::move(response));
                     }});
}

void RestApi::AddPageRoutes() {
  struct File {
    const char* path;
    const char* content_type;
    std::string_view bytes;
  };
  for (const File& file : {File{"/", "text/html; charset=utf-8", web_index_html},
                           File{"/app.css", "text/css; charset=utf-8", web_app_css},
                           File{"/app.js", "text/javascript; charset=utf-8", web_app_js},
                           File{"/icon.svg", "image/svg+xml", web_icon_svg}}) {
    routes_.push_back({"GET", file.path, [file](const HttpRequest&, const Reply& reply) {
                         HttpResponse response;
                         response.content_type = file.content_type;
                         response.body = std::string(file.bytes);
                         response.headers = {
                             {"Cache-Control", "no-cache"},
                             {"Content-Security-Policy",
                              "default-src 'self'; frame-ancestors 'none'; base-uri 'none'"},
                             {"Referrer-Policy", "no-referrer"}};
                         reply->Send(std::move(response));
                       }});
  }
}

void RestApi::Handle(HttpRequest request, Reply reply) {
  const Route* found = nullptr;
  std::string allowed;
  for (const Route& route : routes_) {
    const bool prefix = route.path.size() > 1 && route.path.back() == '/';
    const bool matches = prefix ? request.path.size() > route.path.size() &&
                                      request.path.compare(0, route.path.size(), route.path) == 0
                                : request.path == route.path;
    if (!matches) continue;
    if (route.method == request.method) found = &route;
    allowed += (allowed.empty() ? "" : ", ") + route.method;
    if (found != nullptr) break;
  }
  const std::string handler = found != nullptr ? found->path : "other";
  auto counted = std::make_shared<CountedReply>(std::move(reply), service_.metrics(), handler,
                                                KnownMethod(request.method));
  if (found != nullptr) {
    found->act(request, counted);
    return;
  }
  if (allowed.empty()) {
    counted->Send(ErrorResponse(absl::NotFoundError(absl::StrFormat(
        "there is nothing at %s; see / for what there is", request.path.substr(0, 200)))));
    return;
  }
  HttpResponse response = ErrorResponse(absl::InvalidArgumentError(
      absl::StrFormat("%s takes %s, not %s", request.path, allowed, request.method)));
  response.status = 405;
  response.headers.emplace_back("Allow", allowed);
  counted->Send(std::move(response));
}

void RestApi::StartText(absl::StatusOr<RestRequest> request,
                        std::unique_ptr<RestAnswer> (*make)(const RestRequest&, const Accepted&,
                                                            Reply),
                        const Reply& reply) {
  if (!request.ok()) {
    service_.metrics().CountRejected("invalid");
    reply->Send(ErrorResponse(request.status()));
    return;
  }
  const absl::StatusOr<uint64_t> call = service_.Start(
      request->text, [&](const Accepted& accepted) { return make(*request, accepted, reply); });
  if (!call.ok()) {
    reply->Send(ErrorResponse(call.status()));
    return;
  }
  reply->OnGone([this, id = *call] { service_.Cancel(id); });
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
