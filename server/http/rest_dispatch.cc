// From a request to its route: who may go there, and what is counted on the way back.
#include <chrono>
#include <string_view>
#include <utility>

#include "absl/strings/str_format.h"
#include "server/error.h"
#include "server/http/rest_api.h"

namespace qianyi {
namespace {

using Reply = std::shared_ptr<HttpReply>;
using Headers = std::vector<std::pair<std::string, std::string>>;

// What the log says of a request; its path is that of the route, which holds nothing of a client's.
void LogRequest(Log& log, const Caller& caller, const std::string& method,
                const std::string& handler, int status, double seconds) {
  nlohmann::ordered_json line = {{"request_id", caller.request_id},
                                 {"protocol", "http"},
                                 {"method", method},
                                 {"route", handler},
                                 {"status", status},
                                 {"seconds", seconds}};
  if (!caller.name.empty()) line["key"] = caller.name;
  if (!caller.trace.trace_id.empty()) {
    line["trace_id"] = caller.trace.trace_id;
    line["parent_id"] = caller.trace.parent_id;
  }
  log.Request("request", line);
}

// Counts what is sent, adds headers to it, and logs it once it is over.
class CountedReply final : public HttpReply {
 public:
  CountedReply(Reply to, TextService& service, std::string handler, const HttpRequest& request,
               std::string method, Headers headers)
      : to_(std::move(to)),
        metrics_(service.metrics()),
        log_(service.log()),
        handler_(std::move(handler)),
        method_(std::move(method)),
        headers_(std::move(headers)),
        caller_(request.caller) {
    metrics_.CountOpen(ServerMetrics::Open::kHttpRequest, 1);
  }
  ~CountedReply() override {
    metrics_.CountOpen(ServerMetrics::Open::kHttpRequest, -1);
    if (!log_.requests()) return;
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin_;
    LogRequest(log_, caller_, method_, handler_, status_, seconds.count());
  }
  void Send(HttpResponse response) override {
    Count(&response);
    to_->Send(std::move(response));
  }
  void BeginStream(HttpResponse head) override {
    Count(&head);
    to_->BeginStream(std::move(head));
  }
  void Write(std::string bytes) override { to_->Write(std::move(bytes)); }
  void EndStream() override { to_->EndStream(); }
  void OnGone(std::function<void()> callback) override { to_->OnGone(std::move(callback)); }

 private:
  void Count(HttpResponse* response) {
    status_ = response->status;
    metrics_.CountHttp(handler_, method_, response->status);
    for (const auto& header : headers_) response->headers.push_back(header);
  }

  const Reply to_;
  ServerMetrics& metrics_;
  Log& log_;
  const std::string handler_;
  const std::string method_;
  const Headers headers_;
  const Caller caller_;
  const std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
  int status_ = 500;  // what a reply that is dropped unused answers
};

// Methods are a short known list in a label, whatever the client sent.
std::string KnownMethod(const std::string& method) {
  for (const char* known : {"GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"}) {
    if (method == known) return method;
  }
  return "other";
}

// What a page of an allowed origin must be told before its browser shows it an answer.
Headers CorsHeaders(const HttpRequest& request, const OriginRules& rules) {
  if (request.origin.empty() || !IsAllowedOrigin(request.origin, rules)) return {};
  return {{"Access-Control-Allow-Origin", request.origin},
          {"Access-Control-Expose-Headers", "X-Request-Id, Retry-After"},
          {"Vary", "Origin"}};
}

HttpResponse Preflight(std::string methods) {
  HttpResponse response;
  response.status = 204;
  response.headers = {
      {"Access-Control-Allow-Methods", std::move(methods)},
      {"Access-Control-Allow-Headers",
       "Authorization, Content-Type, X-Api-Key, X-Request-Id, X-Priority, traceparent"},
      {"Access-Control-Max-Age", "600"}};
  return response;
}

bool Matches(std::string_view route, std::string_view path) {
  constexpr std::string_view kName = "{name}";
  if (const size_t at = route.find(kName); at != route.npos) {
    const std::string_view before = route.substr(0, at), after = route.substr(at + kName.size());
    if (path.size() <= before.size() + after.size() || path.substr(0, before.size()) != before ||
        path.substr(path.size() - after.size()) != after) {
      return false;
    }
    path.remove_prefix(before.size());
    path.remove_suffix(after.size());
    return path.find('/') == path.npos;
  }
  const bool prefix = route.size() > 1 && route.back() == '/';
  return prefix ? path.size() > route.size() && path.substr(0, route.size()) == route
                : path == route;
}

}  // namespace

RestApi::Found RestApi::Find(const HttpRequest& request) const {
  Found found;
  for (const Route& route : routes_) {
    if (!Matches(route.path, request.path)) continue;
    found.allowed += (found.allowed.empty() ? "" : ", ") + route.method;
    if (route.method != request.method) continue;
    found.route = &route;
    return found;
  }
  return found;
}

absl::Status RestApi::Check(HttpRequest* request, const Route* route) const {
  absl::Status status = CheckHost(request->host, origins_);
  if (status.ok()) status = CheckOrigin(request->origin, request->host, origins_);
  if (!status.ok()) return status;
  // What is not there is not told to strangers either.
  const Scope scope = route != nullptr ? route->scope : Scope::kInference;
  absl::StatusOr<Caller> caller = keys_.Admit(request->key, scope);
  if (!caller.ok()) return caller.status();
  request->caller = *std::move(caller);
  request->caller.request_id = request->request_id;
  request->caller.trace = ParseTraceParent(request->trace_parent);
  request->key.clear();
  return ReadPriority(request->priority, &request->caller);
}

std::optional<HttpResponse> RestApi::Screen(HttpRequest* request) {
  const Found found = Find(*request);
  const Headers cors = CorsHeaders(*request, origins_);
  std::optional<HttpResponse> answer;
  if (request->method == "OPTIONS" && !cors.empty() && !found.allowed.empty()) {
    answer = Preflight(found.allowed);
  } else if (absl::Status status = Check(request, found.route); !status.ok()) {
    answer = ErrorResponse(status);
    service_.metrics().CountRejected(ReasonOf(status));
  }
  if (!answer.has_value()) return answer;
  answer->headers.insert(answer->headers.end(), cors.begin(), cors.end());
  const std::string handler = found.route != nullptr ? found.route->path : "other";
  const std::string method = KnownMethod(request->method);
  service_.metrics().CountHttp(handler, method, answer->status);
  request->caller.request_id = request->request_id;
  request->caller.trace = ParseTraceParent(request->trace_parent);
  LogRequest(service_.log(), request->caller, method, handler, answer->status, 0);
  return answer;
}

void RestApi::Handle(HttpRequest request, Reply reply) {
  const Found found = Find(request);
  const std::string handler = found.route != nullptr ? found.route->path : "other";
  auto counted =
      std::make_shared<CountedReply>(std::move(reply), service_, handler, request,
                                     KnownMethod(request.method), CorsHeaders(request, origins_));
  if (found.route != nullptr) {
    found.route->act(request, counted);
    return;
  }
  if (found.allowed.empty()) {
    counted->Send(ErrorResponse(absl::NotFoundError(absl::StrFormat(
        "there is nothing at %s; see / for what there is", request.path.substr(0, 200)))));
    return;
  }
  HttpResponse response = ErrorResponse(
      absl::InvalidArgumentError(absl::StrFormat("%s takes %s, not %s", request.path.substr(0, 200),
                                                 found.allowed, request.method.substr(0, 50))));
  response.status = 405;
  response.headers.emplace_back("Allow", found.allowed);
  counted->Send(std::move(response));
}

}  // namespace qianyi
