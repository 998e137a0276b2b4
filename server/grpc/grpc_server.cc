#include "server/grpc/grpc_server.h"

#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "google/protobuf/stubs/logging.h"
#include "grpc/support/log.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/grpcpp.h"
#include "grpcpp/health_check_service_interface.h"
#include "qianyi/v1/inference.grpc.pb.h"
#include "server/error.h"
#include "server/grpc/batch_calls.h"
#include "server/grpc/call_log.h"
#include "server/grpc/calls.h"
#include "server/grpc/gate.h"
#include "server/grpc/image_calls.h"
#include "server/grpc/kserve_service.h"
#include "server/grpc/messages.h"
#include "server/server_info.h"

namespace qianyi {
namespace {

constexpr int kMaxMessageBytes = 2 << 20;
constexpr int kMaxMetadataBytes = 16 << 10;
constexpr int kMaxStreamsPerConnection = 256;
constexpr size_t kMaxMemoryBytes = 256 << 20;  // of connections and messages
constexpr int kMinute = 60 * 1000;             // in milliseconds
constexpr auto kCutOff = std::chrono::seconds(2);

class InferenceService final : public v1::Inference::CallbackService {
 public:
  InferenceService(TextService& text, ImageService& images, AdapterAdmin& adapters,
                   const KeyRing& keys)
      : text_(text), images_(images), adapters_(adapters), gate_(keys, text.metrics()) {}

  grpc::ServerUnaryReactor* Generate(grpc::CallbackServerContext* context,
                                     const v1::GenerateRequest* request,
                                     v1::GenerateResponse* response) override {
    return StartGenerate(text_, gate_.Enter(context, "Generate"), *request, response);
  }

  grpc::ServerWriteReactor<v1::GenerateChunk>* GenerateStream(
      grpc::CallbackServerContext* context, const v1::GenerateRequest* request) override {
    return StartGenerateStream(text_, gate_.Enter(context, "GenerateStream"), *request);
  }

  grpc::ServerWriteReactor<v1::GenerateImageChunk>* GenerateImage(
      grpc::CallbackServerContext* context, const v1::GenerateImageRequest* request) override {
    return StartGenerateImage(Images(), gate_.Enter(context, "GenerateImage"), *request);
  }

  grpc::ServerWriteReactor<v1::GenerateImageChunk>* EditImage(
      grpc::CallbackServerContext* context, const v1::EditImageRequest* request) override {
    return StartEditImage(Images(), gate_.Enter(context, "EditImage"), *request);
  }

  grpc::ServerUnaryReactor* CaptionImage(grpc::CallbackServerContext* context,
                                         const v1::CaptionImageRequest* request,
                                         v1::CaptionImageResponse* response) override {
    return StartCaptionImage(Images(), gate_.Enter(context, "CaptionImage"), *request, response);
  }

  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override {
    return Answer(context, "Tokenize", [&] { return DoTokenize(*request, response); });
  }

  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override {
    return Answer(context, "Detokenize", [&] { return DoDetokenize(*request, response); });
  }

  grpc::ServerUnaryReactor* Embed(grpc::CallbackServerContext* context,
                                  const v1::EmbedRequest* request,
                                  v1::EmbedResponse* response) override {
    return StartEmbed(text_, gate_.Enter(context, "Embed"), *request, response);
  }

  grpc::ServerUnaryReactor* Score(grpc::CallbackServerContext* context,
                                  const v1::ScoreRequest* request,
                                  v1::ScoreResponse* response) override {
    return StartScore(text_, gate_.Enter(context, "Score"), *request, response);
  }

  grpc::ServerUnaryReactor* GetServerInfo(grpc::CallbackServerContext* context,
                                          const v1::GetServerInfoRequest*,
                                          v1::GetServerInfoResponse* response) override {
    return Answer(context, "GetServerInfo", [&] {
      response->set_version(std::string(ServerVersion()));
      response->set_uptime_seconds(text_.uptime_seconds());
      for (const auto& model : text_.models()) {
        Describe({model.get(), nullptr}, response->add_models());
      }
      for (const auto& [name, most] : RequestLimits()) {
        (*response->mutable_limits())[std::string(name)] = most;
      }
      return absl::OkStatus();
    });
  }

  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* context,
                                       const v1::ListModelsRequest*,
                                       v1::ListModelsResponse* response) override {
    return Answer(context, "ListModels", [&] {
      for (const auto& model : text_.models()) {
        Describe({model.get(), nullptr}, response->add_models());
        for (auto& adapter : model->engine->adapters().List()) {
          Describe({model.get(), std::move(adapter)}, response->add_models());
        }
      }
      return absl::OkStatus();
    });
  }

  grpc::ServerUnaryReactor* LoadAdapter(grpc::CallbackServerContext* context,
                                        const v1::LoadAdapterRequest* request,
                                        v1::ModelInfo* response) override {
    const absl::StatusOr<Caller> caller = gate_.Enter(context, "LoadAdapter");
    if (!caller.ok()) return Finish(context, "LoadAdapter", caller.status());
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    adapters_.Load({request->model(), request->name(), request->path()},
                   [this, reactor, response](const absl::StatusOr<FoundModel>& loaded) {
                     if (loaded.ok()) Describe(*loaded, response);
                     const grpc::Status answer = ToGrpcStatus(loaded.status());
                     text_.metrics().CountGrpc("LoadAdapter", answer.error_code());
                     reactor->Finish(answer);
                   });
    return reactor;
  }

  grpc::ServerUnaryReactor* UnloadAdapter(grpc::CallbackServerContext* context,
                                          const v1::UnloadAdapterRequest* request,
                                          v1::UnloadAdapterResponse*) override {
    return Answer(context, "UnloadAdapter", [&] { return adapters_.Unload(request->name()); });
  }

 private:
  ImageServer Images() { return {images_, text_.metrics()}; }

  void Describe(const FoundModel& found, v1::ModelInfo* info) const {
    const ServedModel& model = *found.model;
    const ModelSpec& spec = model.engine->model().spec();
    info->set_name(found.name());
    info->set_family(spec.family);
    info->set_context_tokens(model.use().context_tokens);
    info->set_vocabulary_size(spec.vocab_size);
    info->set_batch(model.use().batch);
    info->set_queue(model.queue);
    if (found.adapter != nullptr) info->set_parent(model.name);
    DescribePictures(images_, model, info);
  }

  // What `act` says, once the caller has been let in.
  template <typename Act>
  grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context, const char* method,
                                   Act act) {
    const absl::StatusOr<Caller> caller = gate_.Enter(context, method);
    return Finish(context, method, caller.ok() ? act() : caller.status());
  }

  grpc::ServerUnaryReactor* Finish(grpc::CallbackServerContext* context, const char* method,
                                   const absl::Status& status) {
    const grpc::Status answer = ToGrpcStatus(status);
    text_.metrics().CountGrpc(method, answer.error_code());
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(answer);
    return reactor;
  }

  absl::Status DoTokenize(const v1::TokenizeRequest& request, v1::TokenizeResponse* response) {
    const absl::StatusOr<FoundModel> found = text_.FindModel(request.model());
    if (!found.ok()) return found.status();
    const Tokenizer* tokenizer = found->model->tokenizer.get();
    if (tokenizer == nullptr) return absl::InvalidArgumentError("the model has no tokenizer");
    auto ids = tokenizer->Encode(request.text(), request.commands());
    if (!ids.ok()) return ids.status();
    response->mutable_tokens()->Assign(ids->begin(), ids->end());
    return absl::OkStatus();
  }

  absl::Status DoDetokenize(const v1::DetokenizeRequest& request,
                            v1::DetokenizeResponse* response) {
    const absl::StatusOr<FoundModel> found = text_.FindTextModel(request.model());
    if (!found.ok()) return found.status();
    const std::vector<int32_t> ids(request.tokens().begin(), request.tokens().end());
    auto text = found->model->tokenizer->Decode(ids);
    if (!text.ok()) return WithParam(text.status(), "tokens");
    response->set_text(*std::move(text));
    return absl::OkStatus();
  }

  TextService& text_;
  ImageService& images_;
  AdapterAdmin& adapters_;
  Gate gate_;
};

auto CredentialsOf(const Tls& tls) {
  if (!tls.on()) return grpc::InsecureServerCredentials();
  grpc::SslServerCredentialsOptions options(
      tls.asks_clients() ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
                         : GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE);
  options.pem_root_certs = tls.client_ca;
  options.pem_key_cert_pairs.push_back({tls.key, tls.certificate});
  return grpc::SslServerCredentials(options);
}

// What one client, or many, can make the library hold.
void SetLimits(grpc::ServerBuilder* builder) {
  builder->AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kMaxStreamsPerConnection);
  builder->AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, kMaxMetadataBytes);
  builder->AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS, 10 * kMinute);
  // So that long-lived clients find replicas that were added; what runs may finish.
  builder->AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS, 60 * kMinute);
  builder->AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_GRACE_MS, 30 * kMinute);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 2 * kMinute);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kMinute / 3);
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, kMinute / 6);
  // What every message would pass through in vain: answers are not compressed, and nobody looks at
  // the library's own statistics.
  builder->AddChannelArgument(GRPC_ARG_ENABLE_PER_MESSAGE_COMPRESSION, 0);
  builder->AddChannelArgument(GRPC_ARG_ENABLE_CHANNELZ, 0);
  builder->SetMaxReceiveMessageSize(kMaxMessageBytes);
  builder->SetResourceQuota(grpc::ResourceQuota("qianyi").Resize(kMaxMemoryBytes));
}

class Server final : public GrpcServer {
 public:
  Server(TextService& text, ImageService& images, AdapterAdmin& adapters, const KeyRing& keys)
      : log_(text.log()),
        service_(text, images, adapters, keys),
        kserve_(MakeKserveService(text, images, keys)) {}

  absl::Status Listen(const GrpcOptions& options) {
    const auto& [host, port, tls] = options;
    // What it would print of a port that is taken, we say in one sentence.
    gpr_set_log_function([](gpr_log_func_args*) {});
    // Whoever sends rubbish would write a line of the operator's log with each.
    google::protobuf::SetLogHandler(nullptr);
    // Packaged as for debugging, the library's locks would look for cycles each time one is taken.
    absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    const std::string address = host.find(':') == std::string::npos
                                    ? absl::StrCat(host, ":", port)
                                    : absl::StrCat("[", host, "]:", port);
    grpc::ServerBuilder builder;
    // Without this, two servers may share a port, and each gets some of the calls.
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    SetLimits(&builder);
    builder.AddListeningPort(address, CredentialsOf(tls), &port_);
    builder.RegisterService(&service_);
    builder.RegisterService(kserve_.get());
    if (log_.requests()) {
      std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> logs;
      logs.push_back(MakeCallLog(log_));
      builder.experimental().SetInterceptorCreators(std::move(logs));
    }
    server_ = builder.BuildAndStart();
    if (server_ == nullptr || port_ == 0) {
      return absl::UnavailableError(absl::StrFormat(
          "cannot listen on %s for gRPC; the port may be taken: choose another with --grpc-port",
          address));
    }
    return absl::OkStatus();
  }

  ~Server() override {
    if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now() + kCutOff);
  }
  int port() const override { return port_; }
  void SetServing(bool serving) override {
    server_->GetHealthCheckService()->SetServingStatus(serving);
    for (const char* service :
         {v1::Inference::service_full_name(), "inference.GRPCInferenceService"}) {
      server_->GetHealthCheckService()->SetServingStatus(service, serving);
    }
  }

 private:
  Log& log_;
  InferenceService service_;
  const std::unique_ptr<grpc::Service> kserve_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(const GrpcOptions& options,
                                                              TextService& service,
                                                              ImageService& images,
                                                              AdapterAdmin& adapters,
                                                              const KeyRing& keys) {
  auto server = std::make_unique<Server>(service, images, adapters, keys);
  if (absl::Status status = server->Listen(options); !status.ok()) return status;
  server->SetServing(true);
  return server;
}

}  // namespace qianyi
