// A line of the log for each gRPC call.
#pragma once

#include <memory>

#include "grpcpp/support/server_interceptor.h"
#include "server/log.h"

namespace qianyi {

// `log` outlives the server that this is given to.
std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeCallLog(Log& log);

}  // namespace qianyi
