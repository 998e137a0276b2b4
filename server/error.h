// What a caller is told when something is wrong: one mapping for REST and gRPC.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace qianyi {

// An error as the OpenAI-style API shows it.
struct ApiError {
  int http_status = 500;
  std::string type;   // "invalid_request_error", …
  std::string code;   // "model_not_found", …; may be empty
  std::string param;  // the field at fault; may be empty
  std::string message;
  int retry_after_seconds = 0;  // 0 = trying again is no use
};

// Marks a status with the request's field at fault, and a code of the API.
absl::Status WithParam(absl::Status status, std::string_view param);
absl::Status WithCode(absl::Status status, std::string_view code);
absl::Status BadParam(std::string_view param, std::string_view message);  // InvalidArgument
// ResourceExhausted, for now: a key's own quota (429), or the server's capacity (503). `reason` is
// what metrics count it by.
absl::Status OverQuota(std::string_view reason, std::string_view message, int retry_after_seconds);
absl::Status OverCapacity(std::string_view reason, std::string_view message,
                          int retry_after_seconds);
// What metrics call a refusal: "queue_full", "key_tokens", …, "invalid".
std::string ReasonOf(const absl::Status& status);

ApiError ToApiError(const absl::Status& status);
// {"error": {"message", "type", "param", "code"}}
std::string ToJson(const ApiError& error);

}  // namespace qianyi
