// Messages that ask for something, read into the server's own requests; those of text are in
// messages.h.
#pragma once

#include "absl/status/statusor.h"
#include "inference/kserve.pb.h"
#include "qianyi/v1/inference.pb.h"
#include "server/batch_request.h"
#include "server/image_request.h"
#include "server/kserve.h"

namespace qianyi {

// InvalidArgument names the field at fault.
absl::StatusOr<BatchRequest> ParseRequest(const v1::EmbedRequest& message);
absl::StatusOr<BatchRequest> ParseRequest(const v1::ScoreRequest& message);
absl::StatusOr<ImageRequest> ParseRequest(const v1::GenerateImageRequest& message);
absl::StatusOr<ImageRequest> ParseRequest(const v1::EditImageRequest& message);
absl::StatusOr<ImageRequest> ParseRequest(const v1::CaptionImageRequest& message);
// The message as the body that REST would have had: ReadInfer checks both.
nlohmann::json InferBody(const inference::ModelInferRequest& message);

}  // namespace qianyi
