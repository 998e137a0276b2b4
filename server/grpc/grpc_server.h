// qianyi.v1.Inference over gRPC, with health checks and reflection.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "server/adapter_admin.h"
#include "server/text_service.h"

namespace qianyi {

class GrpcServer {
 public:
  // Port 0 takes a free one. Unavailable when the address is taken. `service` and
  // `adapters` outlive this.
  static absl::StatusOr<std::unique_ptr<GrpcServer>> Start(const std::string& host, int port,
                                                           TextService& service,
                                                           AdapterAdmin& adapters);
  virtual ~GrpcServer() = default;  // calls in progress are cut off

  virtual int port() const = 0;
  virtual void SetServing(bool serving) = 0;  // what health checks say
};

}  // namespace qianyi
