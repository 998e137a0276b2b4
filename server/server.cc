#include "server/server.h"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_format.h"
#include "server/access/key_ring.h"
#include "server/adapter_admin.h"
#include "server/grpc/grpc_server.h"
#include "server/http/http_server.h"
#include "server/http/rest_api.h"
#include "server/image_service.h"
#include "server/text_service.h"

namespace qianyi {
namespace {

constexpr double kFinishSeconds = 5;  // for clients to take what was written for them

absl::Status CheckExposure(const ServerOptions& options) {
  if (!options.key_file.empty() && options.no_keys) {
    return absl::InvalidArgumentError("--keys and --no-keys contradict each other; give one");
  }
  if (IsLoopback(options.host) || !options.key_file.empty() || options.no_keys) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrFormat(
      "--host %s can be reached from other machines: give --keys FILE, made by `qianyi keys`, or "
      "say --no-keys to answer whoever can reach it",
      options.host));
}

// Threads that carry requests and answers do not interrupt those that compute, whose engines were
// opened before: on a busy machine they wait for their turn, some milliseconds at most, and then
// carry what has gathered. For this thread and those that it starts. Where it is forbidden, all
// goes on as before.
void WaitForTurns() {
  const sched_param none{};
  pthread_setschedparam(pthread_self(), SCHED_BATCH, &none);
}

class BothPorts final : public Server {
 public:
  BothPorts(std::vector<std::unique_ptr<ServedModel>> models, const ServerOptions& options,
            Log& log, std::unique_ptr<KeyRing> keys)
      : options_(options),
        keys_(std::move(keys)),
        text_(std::move(models), options.queue, log),
        images_(text_, text_.models().front()->queue),
        adapters_(text_, options.adapter_folder),
        rest_(text_, images_, adapters_, *keys_, RulesOf(options)) {}

  absl::Status Listen() {
    absl::StatusOr<Tls> tls = ReadTls(options_.tls);
    if (!tls.ok()) return tls.status();
    HttpHooks hooks;
    hooks.screen = [this](HttpRequest* request) { return rest_.Screen(request); };
    hooks.handler = [this](HttpRequest request, std::shared_ptr<HttpReply> reply) {
      rest_.Handle(std::move(request), std::move(reply));
    };
    hooks.on_refused = [this](const std::string& request_id, int status) {
      text_.log().Request("request", {{"request_id", request_id},
                                      {"protocol", "http"},
                                      {"route", "other"},
                                      {"status", status}});
      text_.metrics().CountHttp("other", "other", status);
      if (status == 503) text_.metrics().CountRejected("body_memory");
    };
    hooks.on_connection = [this](int change) {
      text_.metrics().CountOpen(ServerMetrics::Open::kConnection, change);
    };
    auto http =
        HttpServer::Start(options_.host, options_.http_port, HttpLimits{}, *tls, std::move(hooks));
    if (!http.ok()) return http.status();
    http_ = *std::move(http);
    auto grpc = GrpcServer::Start({options_.host, options_.grpc_port, *tls}, text_, images_,
                                  adapters_, *keys_);
    if (!grpc.ok()) return grpc.status();
    grpc_ = *std::move(grpc);
    return absl::OkStatus();
  }

  ~BothPorts() override {
    text_.Drain(0);
    images_.Drain(0);
    adapters_.Stop();
    grpc_.reset();
    http_.reset();
  }

  int http_port() const override { return http_->port(); }
  int grpc_port() const override { return grpc_->port(); }
  void Drain() override {
    grpc_->SetServing(false);
    const auto end =
        std::chrono::steady_clock::now() + std::chrono::duration<double>(options_.drain_seconds);
    images_.Refuse();
    text_.Drain(options_.drain_seconds);
    const std::chrono::duration<double> left = end - std::chrono::steady_clock::now();
    images_.Drain(std::max(0.0, left.count()));
    adapters_.Stop();
    http_->Finish(kFinishSeconds);
  }

 private:
  static OriginRules RulesOf(const ServerOptions& options) {
    OriginRules rules = options.origins;
    rules.any_host = !options.key_file.empty();
    return rules;
  }

  const ServerOptions options_;
  const std::unique_ptr<KeyRing> keys_;
  TextService text_;
  ImageService images_;
  AdapterAdmin adapters_;
  RestApi rest_;
  std::unique_ptr<HttpServer> http_;
  std::unique_ptr<GrpcServer> grpc_;
};

}  // namespace

// Addresses only: a name that begins like one may lead anywhere.
bool IsLoopback(const std::string& host) {
  const bool address = host.find_first_not_of("0123456789.") == std::string::npos;
  return host == "::1" || (address && host.starts_with("127."));
}

absl::StatusOr<std::unique_ptr<Server>> Server::Start(
    std::vector<std::unique_ptr<ServedModel>> models, const ServerOptions& options) {
  if (absl::Status status = CheckExposure(options); !status.ok()) return status;
  static Log& standard_error = *new Log(LogOptions{});  // never destroyed: outlives every server
  Log& log = options.log != nullptr ? *options.log : standard_error;
  absl::StatusOr<std::unique_ptr<KeyRing>> keys = KeyRing::Open(options.key_file, log);
  if (!keys.ok()) return keys.status();
  WaitForTurns();
  auto server = std::make_unique<BothPorts>(std::move(models), options, log, *std::move(keys));
  if (absl::Status status = server->Listen(); !status.ok()) return status;
  return server;
}

}  // namespace qianyi
