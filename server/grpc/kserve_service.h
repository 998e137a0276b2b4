// inference.GRPCInferenceService: the Open Inference Protocol (KServe v2) over gRPC.
#pragma once

#include <memory>

#include "grpcpp/impl/service_type.h"
#include "server/access/key_ring.h"
#include "server/image_service.h"
#include "server/text_service.h"

namespace qianyi {

// All outlive it.
std::unique_ptr<grpc::Service> MakeKserveService(TextService& text, ImageService& images,
                                                 const KeyRing& keys);

}  // namespace qianyi
