#include "server/grpc/gate.h"

#include <map>
#include <string_view>
#include <utility>

#include "server/error.h"
#include "server/request_id.h"

namespace qianyi {
namespace {

Scope ScopeOf(const std::string& method) {
  static const std::map<std::string, Scope> scopes = {
      {"Generate", Scope::kInference},
      {"GenerateStream", Scope::kInference},
      {"Tokenize", Scope::kInference},
      {"ListModels", Scope::kInference},
      {"GenerateImage", Scope::kInference},
      {"EditImage", Scope::kInference},
      {"CaptionImage", Scope::kInference},
      {"LoadAdapter", Scope::kAdmin},
      {"UnloadAdapter", Scope::kAdmin},
      {"Embed", Scope::kInference},
      {"Score", Scope::kInference},
      {"Detokenize", Scope::kInference},
      {"GetServerInfo", Scope::kInference},
      // KServe's.
      {"ServerLive", Scope::kPublic},
      {"ServerReady", Scope::kPublic},
      {"ModelReady", Scope::kInference},
      {"ServerMetadata", Scope::kInference},
      {"ModelMetadata", Scope::kInference},
      {"ModelInfer", Scope::kInference},
  };
  const auto at = scopes.find(method);
  return at == scopes.end() ? Scope::kAdmin : at->second;
}

}  // namespace

absl::StatusOr<Caller> Gate::Enter(grpc::CallbackServerContext* context,
                                   const std::string& method) {
  metrics_.CountOpen(ServerMetrics::Open::kGrpcCall, 1);  // until CountGrpc
  const auto& metadata = context->client_metadata();
  const auto value = [&](const char* name) {
    const auto at = metadata.find(name);
    return at == metadata.end() ? std::string_view()
                                : std::string_view(at->second.data(), at->second.size());
  };
  const std::string request_id = RequestIdFrom(value("x-request-id"));
  context->AddTrailingMetadata("x-request-id", request_id);
  absl::StatusOr<Caller> caller =
      keys_.Admit(PresentedKey(value("authorization"), value("x-api-key")), ScopeOf(method));
  if (caller.ok()) {
    caller->request_id = request_id;
    caller->trace = ParseTraceParent(value("traceparent"));
    absl::Status priority = ReadPriority(value("x-priority"), &*caller);
    if (!priority.ok()) caller = std::move(priority);
  }
  if (!caller.ok()) {
    metrics_.CountRejected(ReasonOf(caller.status()));
  }
  return caller;
}

}  // namespace qianyi
