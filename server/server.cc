#include "server/server.h"

#include <utility>

#include "server/adapter_admin.h"
#include "server/grpc/grpc_server.h"
#include "server/http/http_server.h"
#include "server/http/rest_api.h"
#include "server/text_service.h"

namespace qianyi {
namespace {

constexpr double kFinishSeconds = 5;  // for clients to take what was written for them

class BothPorts final : public Server {
 public:
  BothPorts(std::vector<std::unique_ptr<ServedModel>> models, const ServerOptions& options)
      : options_(options),
        text_(std::move(models)),
        adapters_(text_, options.adapter_folder),
        rest_(text_, adapters_) {}

  absl::Status Listen() {
    auto http = HttpServer::Start(
        options_.host, options_.http_port, HttpLimits{},
        [this](HttpRequest request, std::shared_ptr<HttpReply> reply) {
          rest_.Handle(std::move(request), std::move(reply));
        },
        [this](int status) { text_.metrics().CountHttp("other", "other", status); });
    if (!http.ok()) return http.status();
    http_ = *std::move(http);
    auto grpc = GrpcServer::Start(options_.host, options_.grpc_port, text_, adapters_);
    if (!grpc.ok()) return grpc.status();
    grpc_ = *std::move(grpc);
    return absl::OkStatus();
  }

  ~BothPorts() override {
    text_.Drain(0);
    adapters_.Stop();
    grpc_.reset();
    http_.reset();
  }

  int http_port() const override { return http_->port(); }
  int grpc_port() const override { return grpc_->port(); }
  void Drain() override {
    grpc_->SetServing(false);
    text_.Drain(options_.drain_seconds);
    adapters_.Stop();
    http_->Finish(kFinishSeconds);
  }

 private:
  const ServerOptions options_;
  TextService text_;
  AdapterAdmin adapters_;
  RestApi rest_;
  std::unique_ptr<HttpServer> http_;
  std::unique_ptr<GrpcServer> grpc_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Server>> Server::Start(
    std::vector<std::unique_ptr<ServedModel>> models, const ServerOptions& options) {
  auto server = std::make_unique<BothPorts>(std::move(models), options);
  if (absl::Status status = server->Listen(); !status.ok()) return status;
  return server;
}

}  // namespace qianyi
