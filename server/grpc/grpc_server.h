// qianyi.v1.Inference over gRPC, with health checks and reflection.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "server/access/key_ring.h"
#include "server/access/tls.h"
#include "server/adapter_admin.h"
#include "server/image_service.h"
#include "server/text_service.h"

namespace qianyi {

struct GrpcOptions {
  std::string host;
  int port = 0;  // 0 takes a free one
  Tls tls;       // may be off
};

class GrpcServer {
 public:
  // Unavailable when the address is taken. All but `options` outlive this.
  static absl::StatusOr<std::unique_ptr<GrpcServer>> Start(const GrpcOptions& options,
                                                           TextService& service,
                                                           ImageService& images,
                                                           AdapterAdmin& adapters,
                                                           const KeyRing& keys);
  virtual ~GrpcServer() = default;  // calls in progress are cut off

  virtual int port() const = 0;
  virtual void SetServing(bool serving) = 0;  // what health checks say
};

}  // namespace qianyi
