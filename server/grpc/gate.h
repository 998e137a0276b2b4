// Every gRPC call's way in: whose key it has, and the id it is known by.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "grpcpp/server_context.h"
#include "server/access/key_ring.h"
#include "server/metrics.h"

namespace qianyi {

// Thread-safe.
class Gate {
 public:
  Gate(const KeyRing& keys, ServerMetrics& metrics) : keys_(keys), metrics_(metrics) {}

  // `method` is one of our services; one that has no scope here asks for an admin's key.
  // Adds x-request-id to what the call ends with: the client's if it is fit to be echoed, else a
  // new one. Errors as of KeyRing::Admit.
  absl::StatusOr<Caller> Enter(grpc::CallbackServerContext* context, const std::string& method);

 private:
  const KeyRing& keys_;
  ServerMetrics& metrics_;
};

}  // namespace qianyi
