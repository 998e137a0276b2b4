// The two generating calls of qianyi.v1.Inference.
#pragma once

#include "grpcpp/support/server_callback.h"
#include "qianyi/v1/inference.pb.h"
#include "server/access/key_ring.h"
#include "server/text_service.h"

namespace qianyi {

// Reactors delete themselves when the call is done; a caller who was not let in ends it at once.
// `text` outlives them; `response` is gRPC's.
grpc::ServerUnaryReactor* StartGenerate(TextService& text, const absl::StatusOr<Caller>& caller,
                                        const v1::GenerateRequest& request,
                                        v1::GenerateResponse* response);
grpc::ServerWriteReactor<v1::GenerateChunk>* StartGenerateStream(
    TextService& text, const absl::StatusOr<Caller>& caller, const v1::GenerateRequest& request);

}  // namespace qianyi
