// Between the messages of qianyi.v1 and the server's own requests and statuses.
#pragma once

#include "absl/status/statusor.h"
#include "grpcpp/support/status.h"
#include "qianyi/v1/inference.pb.h"
#include "runtime/sink.h"
#include "server/text_request.h"
#include "server/token_report.h"

namespace qianyi {

// Errors as of SetParameter; InvalidArgument without any input.
absl::StatusOr<TextRequest> ParseRequest(const v1::GenerateRequest& message);

// The mapping of server/error.h.
grpc::Status ToGrpcStatus(const absl::Status& status);

void SetLogprob(const TokenReport& token, v1::TokenLogprob* message);
void SetUsage(const Usage& usage, v1::Usage* message);

}  // namespace qianyi
