#include "server/grpc/error_details.h"

#include <cstdint>
#include <string_view>

namespace qianyi {
namespace {

// A message written field by field: the packaged libraries have the code of google.rpc's messages,
// but not their headers.
class Message {
 public:
  Message& Bytes(int field, std::string_view value) {
    Varint(static_cast<uint64_t>(field) << 3 | kLengthDelimited);
    Varint(value.size());
    bytes_.append(value);
    return *this;
  }
  Message& Number(int field, uint64_t value) {
    Varint(static_cast<uint64_t>(field) << 3 | kVarint);
    Varint(value);
    return *this;
  }
  const std::string& bytes() const { return bytes_; }

 private:
  static constexpr uint64_t kVarint = 0, kLengthDelimited = 2;  // wire types

  void Varint(uint64_t value) {
    for (; value >= 0x80; value >>= 7) bytes_ += static_cast<char>(value | 0x80);
    bytes_ += static_cast<char>(value);
  }

  std::string bytes_;
};

// google.protobuf.Any of google.rpc.`type`.
std::string Any(std::string_view type, const Message& message) {
  const std::string url = std::string("type.googleapis.com/google.rpc.").append(type);
  return Message().Bytes(1, url).Bytes(2, message.bytes()).bytes();
}

}  // namespace

std::string ErrorDetails(const ApiError& error, grpc::StatusCode code) {
  Message status;
  status.Number(1, static_cast<uint64_t>(code)).Bytes(2, error.message);
  const std::string& reason = error.code.empty() ? error.type : error.code;
  status.Bytes(3, Any("ErrorInfo", Message().Bytes(1, reason).Bytes(2, "qianyi")));
  if (error.retry_after_seconds > 0) {
    const Message delay = Message().Number(1, static_cast<uint64_t>(error.retry_after_seconds));
    status.Bytes(3, Any("RetryInfo", Message().Bytes(1, delay.bytes())));
  }
  if (!error.param.empty()) {
    const Message violation = Message().Bytes(1, error.param).Bytes(2, error.message);
    status.Bytes(3, Any("BadRequest", Message().Bytes(1, violation.bytes())));
  }
  return status.bytes();
}

}  // namespace qianyi
