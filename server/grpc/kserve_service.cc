#include "server/grpc/kserve_service.h"

#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "inference/kserve.grpc.pb.h"
#include "nlohmann/json.hpp"
#include "server/error.h"
#include "server/grpc/gate.h"
#include "server/grpc/messages.h"
#include "server/grpc/requests.h"
#include "server/kserve.h"

namespace qianyi {
namespace {

using nlohmann::json;

std::string Raw(const InferTensor& tensor) {
  if (const auto* bytes = std::get_if<std::string>(&tensor.data)) return *bytes;
  std::string raw;
  if (const auto* numbers = std::get_if<std::vector<int64_t>>(&tensor.data)) {
    for (const int64_t number : *numbers) {
      for (int i = 0; i < 8; ++i) raw += static_cast<char>(number >> (8 * i));
    }
    return raw;
  }
  const auto& elements = std::get<std::vector<std::string>>(tensor.data);
  for (const std::string& element : elements) {
    for (int i = 0; i < 4; ++i) raw += static_cast<char>(element.size() >> (8 * i));
    raw += element;
  }
  return raw;
}

void SetTensor(const InferTensor& from, bool raw, inference::ModelInferResponse* response) {
  auto* tensor = response->add_outputs();
  tensor->set_name(from.name);
  tensor->set_datatype(from.datatype());
  for (const int64_t extent : from.shape) tensor->add_shape(extent);
  if (raw) {
    response->add_raw_output_contents(Raw(from));
    return;
  }
  auto* contents = tensor->mutable_contents();
  if (const auto* bytes = std::get_if<std::string>(&from.data)) {
    for (const char byte : *bytes) contents->add_uint_contents(static_cast<uint8_t>(byte));
  } else if (const auto* numbers = std::get_if<std::vector<int64_t>>(&from.data)) {
    for (const int64_t number : *numbers) contents->add_int64_contents(number);
  } else {
    for (const std::string& element : std::get<std::vector<std::string>>(from.data)) {
      contents->add_bytes_contents(element);
    }
  }
}

void SetTensors(
    const json& list,
    google::protobuf::RepeatedPtrField<inference::ModelMetadataResponse::TensorMetadata>* tensors) {
  for (const json& entry : list) {
    auto* tensor = tensors->Add();
    tensor->set_name(entry["name"].get<std::string>());
    tensor->set_datatype(entry["datatype"].get<std::string>());
    for (const json& extent : entry["shape"]) tensor->add_shape(extent.get<int64_t>());
  }
}

// Deletes itself when the call is done.
class InferCall final : public grpc::ServerUnaryReactor {
 public:
  InferCall(InferService& infer, ServerMetrics& metrics, inference::ModelInferResponse* response)
      : infer_(infer), metrics_(metrics), response_(response) {}

  void Start(const absl::StatusOr<Caller>& caller, const inference::ModelInferRequest& message) {
    absl::Status entry = caller.status();
    if (entry.ok()) entry = CheckVersion(message.model_version());
    absl::StatusOr<InferRequest> request =
        entry.ok() ? infer_.Read(message.model_name(), InferBody(message))
                   : absl::StatusOr<InferRequest>(entry);
    if (!request.ok()) {
      End(request.status());
      return;
    }
    request->SetCaller(*caller, static_cast<int64_t>(message.ByteSizeLong()));
    id_ = request->id;
    raw_ = message.raw_input_contents_size() > 0;
    const absl::StatusOr<InferService::Call> call = infer_.Start(
        *std::move(request), [this](const absl::Status& status, const InferAnswer& answer) {
          if (status.ok()) Fill(answer);
          End(status);
        });
    if (call.ok()) {
      SetCall(*call);
    } else {
      End(call.status());
    }
  }

  void OnCancel() override {
    std::lock_guard lock(mutex_);
    cancelled_ = true;
    if (call_.has_value()) infer_.Cancel(*call_);
  }
  void OnDone() override { delete this; }

 private:
  // The call may have ended already; cancelling it then does nothing. What was cancelled before it
  // was known is cancelled now.
  void SetCall(InferService::Call call) {
    std::lock_guard lock(mutex_);
    call_ = call;
    if (cancelled_) infer_.Cancel(call);
  }
  void Fill(const InferAnswer& answer) {
    response_->set_model_name(answer.model);
    response_->set_model_version("1");
    response_->set_id(id_);
    for (const auto& [name, number] : answer.parameters) {
      (*response_->mutable_parameters())[name].set_int64_param(number);
    }
    for (const InferTensor& tensor : answer.tensors) SetTensor(tensor, raw_, response_);
  }
  void End(const absl::Status& status) {
    const grpc::Status answer = ToGrpcStatus(status);
    metrics_.CountGrpc("ModelInfer", answer.error_code());
    Finish(answer);
  }

  InferService& infer_;
  ServerMetrics& metrics_;
  inference::ModelInferResponse* const response_;
  std::string id_;  // the client's
  bool raw_ = false;
  std::mutex mutex_;  // guards the rest
  std::optional<InferService::Call> call_;
  bool cancelled_ = false;
};

class KserveService final : public inference::GRPCInferenceService::CallbackService {
 public:
  KserveService(TextService& text, ImageService& images, const KeyRing& keys)
      : text_(text), infer_(text, images), gate_(keys, text.metrics()) {}

  grpc::ServerUnaryReactor* ServerLive(grpc::CallbackServerContext* context,
                                       const inference::ServerLiveRequest*,
                                       inference::ServerLiveResponse* response) override {
    return Answer(context, "ServerLive", [&] {
      response->set_live(true);
      return absl::OkStatus();
    });
  }
  grpc::ServerUnaryReactor* ServerReady(grpc::CallbackServerContext* context,
                                        const inference::ServerReadyRequest*,
                                        inference::ServerReadyResponse* response) override {
    return Answer(context, "ServerReady", [&] {
      response->set_ready(!text_.draining());
      return absl::OkStatus();
    });
  }
  grpc::ServerUnaryReactor* ModelReady(grpc::CallbackServerContext* context,
                                       const inference::ModelReadyRequest* request,
                                       inference::ModelReadyResponse* response) override {
    return Answer(context, "ModelReady", [&] {
      response->set_ready(!text_.draining());
      return Find(request->name(), request->version()).status();
    });
  }
  grpc::ServerUnaryReactor* ServerMetadata(grpc::CallbackServerContext* context,
                                           const inference::ServerMetadataRequest*,
                                           inference::ServerMetadataResponse* response) override {
    return Answer(context, "ServerMetadata", [&] {
      const json metadata = ServerMetadataJson();
      response->set_name(metadata["name"].get<std::string>());
      response->set_version(metadata["version"].get<std::string>());
      return absl::OkStatus();
    });
  }
  grpc::ServerUnaryReactor* ModelMetadata(grpc::CallbackServerContext* context,
                                          const inference::ModelMetadataRequest* request,
                                          inference::ModelMetadataResponse* response) override {
    return Answer(context, "ModelMetadata", [&] {
      const absl::StatusOr<FoundModel> found = Find(request->name(), request->version());
      if (!found.ok()) return found.status();
      const json metadata = InferService::Metadata(*found);
      response->set_name(metadata["name"].get<std::string>());
      response->add_versions(metadata["versions"][0].get<std::string>());
      response->set_platform(metadata["platform"].get<std::string>());
      SetTensors(metadata["inputs"], response->mutable_inputs());
      SetTensors(metadata["outputs"], response->mutable_outputs());
      return absl::OkStatus();
    });
  }
  grpc::ServerUnaryReactor* ModelInfer(grpc::CallbackServerContext* context,
                                       const inference::ModelInferRequest* request,
                                       inference::ModelInferResponse* response) override {
    auto* call = new InferCall(infer_, text_.metrics(), response);  // OnDone deletes it
    call->Start(gate_.Enter(context, "ModelInfer"), *request);
    return call;
  }

 private:
  absl::StatusOr<FoundModel> Find(const std::string& name, const std::string& version) const {
    if (absl::Status status = CheckVersion(version); !status.ok()) return status;
    return text_.FindModel(name);
  }

  // What `act` says, once the caller has been let in.
  template <typename Act>
  grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context, const char* method,
                                   Act act) {
    const absl::StatusOr<Caller> caller = gate_.Enter(context, method);
    const absl::Status status = caller.ok() ? act() : caller.status();
    const grpc::Status answer = ToGrpcStatus(status);
    text_.metrics().CountGrpc(method, answer.error_code());
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(answer);
    return reactor;
  }

  TextService& text_;
  InferService infer_;
  Gate gate_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeKserveService(TextService& text, ImageService& images,
                                                 const KeyRing& keys) {
  return std::make_unique<KserveService>(text, images, keys);
}

}  // namespace qianyi
