// The calls of qianyi.v1.Inference that write no text but run the model.
#pragma once

#include "grpcpp/support/server_callback.h"
#include "qianyi/v1/inference.pb.h"
#include "server/access/key_ring.h"
#include "server/text_service.h"

namespace qianyi {

// Reactors delete themselves, as those of calls.h.
grpc::ServerUnaryReactor* StartEmbed(TextService& text, const absl::StatusOr<Caller>& caller,
                                     const v1::EmbedRequest& request, v1::EmbedResponse* response);
grpc::ServerUnaryReactor* StartScore(TextService& text, const absl::StatusOr<Caller>& caller,
                                     const v1::ScoreRequest& request, v1::ScoreResponse* response);

}  // namespace qianyi
