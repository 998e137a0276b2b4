// inference.GRPCInferenceService: the Open Inference Protocol (KServe v2) over gRPC.
#pragma once

#include <memory>

#include "grpcpp/impl/service_type.h"
#include "server/access/key_ring.h"
#include "server/text_service.h"

namespace qianyi {

// Both outlive it.
std::unique_ptr<grpc::Service> MakeKserveService(TextService& text, const KeyRing& keys);

}  // namespace qianyi
