#include "server/error.h"

#include "absl/strings/numbers.h"
#include "nlohmann/json.hpp"

namespace qianyi {
namespace {

constexpr char kParam[] = "qianyi/param";
constexpr char kCode[] = "qianyi/code";
constexpr char kReason[] = "qianyi/reason";
constexpr char kRetry[] = "qianyi/retry-after-seconds";
constexpr char kOverQuota[] = "rate_limit_exceeded";

std::string Payload(const absl::Status& status, const char* url) {
  const auto payload = status.GetPayload(url);
  return payload.has_value() ? std::string(*payload) : "";
}

struct Kind {
  absl::StatusCode status;
  int http_status;
  const char* type;
  const char* code;
  int retry_after_seconds;
};
// ResourceExhausted is a matter of capacity unless OverQuota says otherwise.
constexpr Kind kKinds[] = {
    {absl::StatusCode::kInvalidArgument, 400, "invalid_request_error", "", 0},
    {absl::StatusCode::kOutOfRange, 413, "invalid_request_error", "", 0},
    {absl::StatusCode::kUnauthenticated, 401, "authentication_error", "", 0},
    {absl::StatusCode::kPermissionDenied, 403, "permission_error", "", 0},
    {absl::StatusCode::kNotFound, 404, "invalid_request_error", "", 0},
    {absl::StatusCode::kAlreadyExists, 409, "invalid_request_error", "", 0},
    {absl::StatusCode::kCancelled, 499, "request_cancelled", "", 0},
    {absl::StatusCode::kResourceExhausted, 503, "service_unavailable_error", "server_is_overloaded",
     1},
    {absl::StatusCode::kUnavailable, 503, "service_unavailable_error", "server_is_overloaded", 5},
    {absl::StatusCode::kDeadlineExceeded, 504, "timeout_error", "", 0},
    {absl::StatusCode::kUnimplemented, 501, "not_supported_error", "", 0},
};

absl::Status Exhausted(std::string_view reason, std::string_view message, int seconds) {
  absl::Status status = absl::ResourceExhaustedError(std::string(message));
  status.SetPayload(kReason, absl::Cord(std::string(reason)));
  status.SetPayload(kRetry, absl::Cord(std::to_string(seconds)));
  return status;
}

}  // namespace

absl::Status WithParam(absl::Status status, std::string_view param) {
  status.SetPayload(kParam, absl::Cord(std::string(param)));
  return status;
}

absl::Status WithCode(absl::Status status, std::string_view code) {
  status.SetPayload(kCode, absl::Cord(std::string(code)));
  return status;
}

absl::Status BadParam(std::string_view param, std::string_view message) {
  return WithParam(absl::InvalidArgumentError(std::string(message)), param);
}

absl::Status OverQuota(std::string_view reason, std::string_view message, int retry_after_seconds) {
  return WithCode(Exhausted(reason, message, retry_after_seconds), kOverQuota);
}

absl::Status OverCapacity(std::string_view reason, std::string_view message,
                          int retry_after_seconds) {
  return Exhausted(reason, message, retry_after_seconds);
}

std::string ReasonOf(const absl::Status& status) {
  if (std::string reason = Payload(status, kReason); !reason.empty()) return reason;
  if (absl::IsResourceExhausted(status)) return "queue_full";
  if (absl::IsUnavailable(status)) return "draining";
  if (absl::IsUnauthenticated(status)) return "unauthenticated";
  return absl::IsPermissionDenied(status) ? "forbidden" : "invalid";
}

ApiError ToApiError(const absl::Status& status) {
  ApiError error{500, "server_error", Payload(status, kCode), Payload(status, kParam),
                 std::string(status.message())};
  for (const Kind& kind : kKinds) {
    if (kind.status != status.code()) continue;
    error.http_status = kind.http_status;
    error.type = kind.type;
    if (error.code.empty()) error.code = kind.code;
    error.retry_after_seconds = kind.retry_after_seconds;
  }
  int seconds = 0;
  if (absl::SimpleAtoi(Payload(status, kRetry), &seconds)) error.retry_after_seconds = seconds;
  if (error.code == kOverQuota) {
    error.http_status = 429;
    error.type = "rate_limit_error";
  }
  return error;
}

std::string ToJson(const ApiError& error) {
  const auto text = [](const std::string& value) {
    return value.empty() ? nlohmann::json() : nlohmann::json(value);
  };
  const nlohmann::json json = {{"error",
                                {{"message", error.message},
                                 {"type", error.type},
                                 {"param", text(error.param)},
                                 {"code", text(error.code)}}}};
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace qianyi
