// Messages of gRPC, the kind said by the first byte: decoded, then read as the server reads them.
// What is refused is a status with details that fit into a trailer.
#include <cstddef>
#include <cstdint>
#include <string>

#include "google/protobuf/stubs/logging.h"
#include "grpcpp/support/status.h"
#include "nlohmann/json.hpp"
#include "server/error.h"
#include "server/grpc/messages.h"
#include "server/grpc/requests.h"

namespace {

constexpr size_t kMostDetailBytes = 8 << 10;

void CheckStatus(const absl::Status& status) {
  if (status.ok()) return;
  const grpc::Status answer = qianyi::ToGrpcStatus(status);
  if (answer.ok() || answer.error_message().empty()) __builtin_trap();
  if (answer.error_message().size() + answer.error_details().size() > kMostDetailBytes) {
    __builtin_trap();
  }
}

void CheckParameters(const qianyi::Parameters& parameters) {
  if (parameters.n < 1 || parameters.n > 128 || parameters.max_tokens < 0) __builtin_trap();
}

template <typename Message>
bool Decode(const uint8_t* data, size_t size, Message* message) {
  return message->ParseFromArray(data, static_cast<int>(size));
}

// Of everything but text: only that it is read or refused.
template <typename Message>
void Try(const uint8_t* data, size_t size) {
  Message message;
  if (Decode(data, size, &message)) CheckStatus(qianyi::ParseRequest(message).status());
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  google::protobuf::SetLogHandler(nullptr);  // as the server does
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const uint8_t kind = data[0];
  ++data;
  --size;
  switch (kind % 7) {
    case 0: {
      qianyi::v1::GenerateRequest message;
      if (!Decode(data, size, &message)) break;
      const auto request = qianyi::ParseRequest(message);
      CheckStatus(request.status());
      if (request.ok()) CheckParameters(request->parameters);
      break;
    }
    case 1:
      Try<qianyi::v1::EmbedRequest>(data, size);
      break;
    case 2:
      Try<qianyi::v1::ScoreRequest>(data, size);
      break;
    case 3:
      Try<qianyi::v1::GenerateImageRequest>(data, size);
      break;
    case 4:
      Try<qianyi::v1::EditImageRequest>(data, size);
      break;
    case 5:
      Try<qianyi::v1::CaptionImageRequest>(data, size);
      break;
    case 6: {
      inference::ModelInferRequest message;
      if (!Decode(data, size, &message)) break;
      for (const bool paints : {false, true}) {
        const auto request =
            qianyi::ReadInfer(message.model_name(), paints, qianyi::InferBody(message));
        CheckStatus(request.status());
        if (!request.ok() || paints) continue;
        CheckParameters(std::get<qianyi::TextRequest>(request->work).parameters);
      }
      break;
    }
  }
  return 0;
}
