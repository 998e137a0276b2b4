// The calls of qianyi.v1.Inference about pictures.
#pragma once

#include "absl/status/statusor.h"
#include "grpcpp/support/server_callback.h"
#include "qianyi/v1/inference.pb.h"
#include "server/access/key_ring.h"
#include "server/image_service.h"
#include "server/metrics.h"

namespace qianyi {

// Where calls about pictures go; both outlive them.
struct ImageServer {
  ImageService& images;
  ServerMetrics& metrics;
};

// Reactors delete themselves when the call is done; a caller who was not let in ends it at once.
// `response` is gRPC's.
grpc::ServerWriteReactor<v1::GenerateImageChunk>* StartGenerateImage(
    ImageServer server, const absl::StatusOr<Caller>& caller,
    const v1::GenerateImageRequest& request);
grpc::ServerWriteReactor<v1::GenerateImageChunk>* StartEditImage(
    ImageServer server, const absl::StatusOr<Caller>& caller, const v1::EditImageRequest& request);
grpc::ServerUnaryReactor* StartCaptionImage(ImageServer server,
                                            const absl::StatusOr<Caller>& caller,
                                            const v1::CaptionImageRequest& request,
                                            v1::CaptionImageResponse* response);

// What a model does with pictures; nothing is set of a model of text.
void DescribePictures(const ImageService& images, const ServedModel& model, v1::ModelInfo* info);

}  // namespace qianyi
