// The Open Inference Protocol (KServe v2) over REST.
#include <utility>

#include "runtime/parse_json.h"
#include "server/error.h"
#include "server/http/rest_api.h"
#include "server/kserve.h"

namespace qianyi {
namespace {

using nlohmann::json;
using Reply = std::shared_ptr<HttpReply>;

void SendJson(const Reply& reply, const json& value) {
  HttpResponse response;
  response.body = Dump(value) + "\n";
  reply->Send(std::move(response));
}

// {"error": "…"}, as the protocol has it.
HttpResponse InferError(const absl::Status& status) {
  HttpResponse response = ErrorResponse(status);
  response.body = Dump({{"error", ToApiError(status).message}}) + "\n";
  return response;
}

json TensorJson(const InferTensor& tensor) {
  json data = json::array();
  if (const auto* bytes = std::get_if<std::string>(&tensor.data)) {
    for (const char byte : *bytes) data.push_back(static_cast<uint8_t>(byte));
  } else if (const auto* numbers = std::get_if<std::vector<int64_t>>(&tensor.data)) {
    data = *numbers;
  } else {
    data = std::get<std::vector<std::string>>(tensor.data);
  }
  return {{"name", tensor.name},
          {"datatype", tensor.datatype()},
          {"shape", tensor.shape},
          {"data", std::move(data)}};
}

json InferJson(const std::string& id, const InferAnswer& answer) {
  json outputs = json::array(), parameters = json::object();
  for (const InferTensor& tensor : answer.tensors) outputs.push_back(TensorJson(tensor));
  for (const auto& [name, number] : answer.parameters) parameters[name] = number;
  json value = {{"model_name", answer.model},
                {"model_version", "1"},
                {"parameters", std::move(parameters)},
                {"outputs", std::move(outputs)}};
  if (!id.empty()) value["id"] = id;
  return value;
}

// What stands for {name} in "/v2/models/{name}…".
std::string NameIn(const HttpRequest& request) {
  const std::string rest = request.path.substr(sizeof("/v2/models/") - 1);
  return rest.substr(0, rest.find('/'));
}

}  // namespace

void RestApi::AddKserveRoutes() {
  const auto ready = [this](const char* member) {
    return [this, member](const HttpRequest&, const Reply& reply) {
      if (service_.draining()) {
        reply->Send(InferError(absl::UnavailableError("the server is shutting down")));
      } else {
        SendJson(reply, {{member, true}});
      }
    };
  };
  const auto model = [this](auto describe) {
    return [this, describe](const HttpRequest& request, const Reply& reply) {
      const absl::StatusOr<FoundModel> found = service_.FindModel(NameIn(request));
      if (found.ok()) {
        describe(*found, request, reply);
      } else {
        reply->Send(InferError(found.status()));
      }
    };
  };
  routes_.push_back(
      {Scope::kPublic, "GET", "/v2/health/live", [](const HttpRequest&, const Reply& reply) {
         SendJson(reply, {{"live", true}});
       }});
  routes_.push_back({Scope::kPublic, "GET", "/v2/health/ready", ready("ready")});
  routes_.push_back({Scope::kInference, "GET", "/v2", [](const HttpRequest&, const Reply& reply) {
                       SendJson(reply, ServerMetadataJson());
                     }});
  routes_.push_back({Scope::kInference, "GET", "/v2/models/{name}",
                     model([](const FoundModel& found, const HttpRequest&, const Reply& reply) {
                       SendJson(reply, InferService::Metadata(found));
                     })});
  routes_.push_back({Scope::kInference, "GET", "/v2/models/{name}/ready",
                     model([ready](const FoundModel&, const HttpRequest& request,
                                   const Reply& reply) { ready("ready")(request, reply); })});
  routes_.push_back(
      {Scope::kInference, "POST", "/v2/models/{name}/infer",
       [this](const HttpRequest& request, const Reply& reply) { Infer(request, reply); }});
}

void RestApi::Infer(const HttpRequest& http, const Reply& reply) {
  absl::StatusOr<InferRequest> request =
      absl::InvalidArgumentError("the body is not JSON in valid UTF-8 (nested at most 64 deep)");
  if (const json body = ParseJson(http.body); !body.is_discarded()) {
    request = infer_.Read(NameIn(http), body);
  }
  if (!request.ok()) {
    service_.metrics().CountRejected("invalid");
    reply->Send(InferError(request.status()));
    return;
  }
  request->SetCaller(http.caller, static_cast<int64_t>(http.body.size()));
  const std::string id = request->id;
  const absl::StatusOr<InferService::Call> call = infer_.Start(
      *std::move(request), [reply, id](const absl::Status& status, const InferAnswer& answer) {
        if (status.ok()) {
          SendJson(reply, InferJson(id, answer));
        } else {
          reply->Send(InferError(status));
        }
      });
  if (!call.ok()) {
    reply->Send(InferError(call.status()));
    return;
  }
  reply->OnGone([this, call = *call] { infer_.Cancel(call); });
}

}  // namespace qianyi
