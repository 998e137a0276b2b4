#include "server/grpc/call_log.h"

#include <chrono>
#include <string>

namespace qianyi {
namespace {

using grpc::experimental::InterceptionHookPoints;

class CallLine final : public grpc::experimental::Interceptor {
 public:
  CallLine(Log& log, const char* method) : log_(log), method_(method) {}

  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_INITIAL_METADATA)) {
      const auto* metadata = methods->GetRecvInitialMetadata();
      const auto at = metadata->find("traceparent");
      if (at != metadata->end()) trace_ = ParseTraceParent({at->second.data(), at->second.size()});
    }
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_STATUS)) {
      const auto* metadata = methods->GetSendTrailingMetadata();
      const auto id = metadata->find("x-request-id");
      Write(id == metadata->end() ? "" : id->second, methods->GetSendStatus().error_code());
    }
    methods->Proceed();
  }

 private:
  void Write(const std::string& request_id, int code) {
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin_;
    nlohmann::ordered_json line = {{"request_id", request_id},
                                   {"protocol", "grpc"},
                                   {"route", method_},
                                   {"status", code},
                                   {"seconds", seconds.count()}};
    if (!trace_.trace_id.empty()) {
      line["trace_id"] = trace_.trace_id;
      line["parent_id"] = trace_.parent_id;
    }
    log_.Request("request", line);
  }

  Log& log_;
  const std::string method_;
  const std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
  Trace trace_;
};

class Factory final : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  explicit Factory(Log& log) : log_(log) {}
  grpc::experimental::Interceptor* CreateServerInterceptor(
      grpc::experimental::ServerRpcInfo* info) override {
    return new CallLine(log_, info->method());  // gRPC deletes it
  }

 private:
  Log& log_;
};

}  // namespace

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeCallLog(Log& log) {
  return std::make_unique<Factory>(log);
}

}  // namespace qianyi
