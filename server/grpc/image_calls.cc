#include "server/grpc/image_calls.h"

#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "server/grpc/messages.h"
#include "server/grpc/requests.h"

namespace qianyi {
namespace {

void SetUsage(const AcceptedImage& accepted, const ImageResult& result, v1::ImageUsage* usage) {
  usage->set_text_tokens(accepted.prompt_tokens);
  usage->set_image_tokens(result.image_tokens);
  usage->set_output_tokens(result.output_tokens);
}

v1::ImageProgress::Stage StageOf(PaintProgress::Stage stage) {
  switch (stage) {
    case PaintProgress::Stage::kPainting:
      return v1::ImageProgress::STAGE_PAINTING;
    case PaintProgress::Stage::kScoring:
      return v1::ImageProgress::STAGE_SCORING;
    case PaintProgress::Stage::kMagnifying:
      break;
  }
  return v1::ImageProgress::STAGE_MAGNIFYING;
}

// Forwards to a reactor, which outlives it: gRPC ends no call before Finish, and Finish comes from
// OnEnd.
template <typename Reactor>
class Forward final : public ImageListener {
 public:
  explicit Forward(Reactor* to) : to_(to) {}
  void OnProgress(ImageProgress progress) override { to_->OnProgress(std::move(progress)); }
  void OnEnd(const absl::StatusOr<ImageResult>& result) override { to_->OnEnd(result); }

 private:
  Reactor* const to_;
};

// A call that can be cancelled before its request has been accepted.
class Cancellation {
 public:
  explicit Cancellation(ImageService& images) : images_(images) {}
  void SetCall(uint64_t call) {
    std::unique_lock lock(mutex_);
    call_ = call;
    if (!cancelled_) return;
    lock.unlock();
    images_.Cancel(call);
  }
  void Cancel() {
    std::unique_lock lock(mutex_);
    cancelled_ = true;
    if (!call_.has_value()) return;
    lock.unlock();  // the end of a call that waited may come at once
    images_.Cancel(*call_);
  }

 private:
  ImageService& images_;
  std::mutex mutex_;
  std::optional<uint64_t> call_;
  bool cancelled_ = false;
};

class PictureCallStream final : public grpc::ServerWriteReactor<v1::GenerateImageChunk> {
 public:
  PictureCallStream(ImageServer server, const char* method)
      : server_(server), method_(method), cancellation_(server.images) {}

  void Start(absl::StatusOr<ImageRequest> request) {
    if (!request.ok()) {
      OnEnd(request.status());
      return;
    }
    request->stream = true;
    const absl::StatusOr<uint64_t> call =
        server_.images.Start(*std::move(request), [this](const AcceptedImage& accepted) {
          accepted_ = accepted;
          return std::make_unique<Forward<PictureCallStream>>(this);
        });
    if (call.ok()) {
      cancellation_.SetCall(*call);
    } else {
      OnEnd(call.status());
    }
  }

  void OnProgress(ImageProgress progress) {
    v1::GenerateImageChunk chunk = Chunk();
    v1::ImageProgress* message = chunk.mutable_progress();
    message->set_stage(StageOf(progress.stage));
    message->set_picture(progress.picture);
    message->set_done(progress.done);
    message->set_total(progress.total);
    message->set_partial_image(std::move(progress.file));
    std::unique_lock lock(mutex_);
    queue_.push_back(std::move(chunk));
    WriteNext(lock);
  }

  void OnEnd(const absl::StatusOr<ImageResult>& result) {
    const grpc::Status answer = ToGrpcStatus(result.status());
    server_.metrics.CountGrpc(method_, answer.error_code());
    std::unique_lock lock(mutex_);
    if (result.ok()) {
      queue_.push_back(Finished(*result));
    } else {
      queue_.clear();
    }
    end_ = answer;
    WriteNext(lock);
  }

  void OnWriteDone(bool ok) override {
    std::unique_lock lock(mutex_);
    writing_ = false;
    if (!ok) {
      queue_.clear();
      lock.unlock();
      cancellation_.Cancel();
      lock.lock();
    }
    WriteNext(lock);
  }
  void OnCancel() override { cancellation_.Cancel(); }
  void OnDone() override { delete this; }

 private:
  v1::GenerateImageChunk Chunk() const {
    v1::GenerateImageChunk chunk;
    chunk.set_model(accepted_.model->name);
    return chunk;
  }
  v1::GenerateImageChunk Finished(const ImageResult& result) const {
    v1::GenerateImageChunk chunk = Chunk();
    v1::FinishedImages* message = chunk.mutable_finished();
    message->set_size(accepted_.size);
    message->set_output_format(std::string(PictureFormatName(accepted_.format)));
    message->set_seed(static_cast<int64_t>(accepted_.seed));
    SetUsage(accepted_, result, message->mutable_usage());
    for (const FinishedPicture& picture : result.pictures) {
      v1::FinishedImage* image = message->add_images();
      image->set_image(picture.file);
      image->set_seed(static_cast<int64_t>(picture.seed));
      if (picture.scored) image->set_score(picture.score);
    }
    return chunk;
  }
  // gRPC takes one message at a time, and may call back at once: unlocks before.
  void WriteNext(std::unique_lock<std::mutex>& lock) {
    if (writing_ || finished_) return;
    if (!queue_.empty()) {
      writing_ = true;
      message_ = std::move(queue_.front());
      queue_.pop_front();
      lock.unlock();
      StartWrite(&message_);
    } else if (end_.has_value()) {
      finished_ = true;
      lock.unlock();
      Finish(*end_);
    }
  }

  const ImageServer server_;
  const char* const method_;
  AcceptedImage accepted_;
  Cancellation cancellation_;
  std::mutex mutex_;  // guards the rest
  std::deque<v1::GenerateImageChunk> queue_;
  v1::GenerateImageChunk message_;  // being written
  bool writing_ = false;
  bool finished_ = false;
  std::optional<grpc::Status> end_;
};

class CaptionCall final : public grpc::ServerUnaryReactor {
 public:
  CaptionCall(ImageServer server, v1::CaptionImageResponse* response)
      : server_(server), response_(response), cancellation_(server.images) {}

  void Start(absl::StatusOr<ImageRequest> request) {
    if (!request.ok()) {
      OnEnd(request.status());
      return;
    }
    const absl::StatusOr<uint64_t> call =
        server_.images.Start(*std::move(request), [this](const AcceptedImage& accepted) {
          accepted_ = accepted;
          return std::make_unique<Forward<CaptionCall>>(this);
        });
    if (call.ok()) {
      cancellation_.SetCall(*call);
    } else {
      OnEnd(call.status());
    }
  }

  void OnProgress(const ImageProgress&) {}
  void OnEnd(const absl::StatusOr<ImageResult>& result) {
    if (result.ok()) {
      response_->set_model(accepted_.model->name);
      response_->set_text(result->caption.text);
      response_->set_log_probability(result->caption.log_probability);
      SetUsage(accepted_, *result, response_->mutable_usage());
    }
    const grpc::Status answer = ToGrpcStatus(result.status());
    server_.metrics.CountGrpc("CaptionImage", answer.error_code());
    Finish(answer);
  }
  void OnCancel() override { cancellation_.Cancel(); }
  void OnDone() override { delete this; }

 private:
  const ImageServer server_;
  v1::CaptionImageResponse* const response_;
  AcceptedImage accepted_;
  Cancellation cancellation_;
};

// On whose account it runs.
absl::StatusOr<ImageRequest> Charged(const absl::StatusOr<Caller>& caller, size_t bytes,
                                     absl::StatusOr<ImageRequest> request) {
  if (!caller.ok()) return caller.status();
  if (!request.ok()) return request;
  request->caller = *caller;
  request->body_bytes = static_cast<int64_t>(bytes);
  return request;
}

}  // namespace

grpc::ServerWriteReactor<v1::GenerateImageChunk>* StartGenerateImage(
    ImageServer server, const absl::StatusOr<Caller>& caller,
    const v1::GenerateImageRequest& request) {
  auto* call = new PictureCallStream(server, "GenerateImage");  // OnDone deletes it
  call->Start(Charged(caller, request.ByteSizeLong(), ParseRequest(request)));
  return call;
}

grpc::ServerWriteReactor<v1::GenerateImageChunk>* StartEditImage(
    ImageServer server, const absl::StatusOr<Caller>& caller, const v1::EditImageRequest& request) {
  auto* call = new PictureCallStream(server, "EditImage");  // OnDone deletes it
  call->Start(Charged(caller, request.ByteSizeLong(), ParseRequest(request)));
  return call;
}

grpc::ServerUnaryReactor* StartCaptionImage(ImageServer server,
                                            const absl::StatusOr<Caller>& caller,
                                            const v1::CaptionImageRequest& request,
                                            v1::CaptionImageResponse* response) {
  auto* call = new CaptionCall(server, response);  // OnDone deletes it
  call->Start(Charged(caller, request.ByteSizeLong(), ParseRequest(request)));
  return call;
}

void DescribePictures(const ImageService& images, const ServedModel& model, v1::ModelInfo* info) {
  if (model.picture == nullptr) return;
  v1::PictureInfo* pictures = info->mutable_pictures();
  pictures->set_paints(model.picture->paints);
  pictures->set_captions(model.picture->captions);
  pictures->set_magnifies(model.picture->magnifies);
  for (std::string& size : images.Sizes(model)) pictures->add_sizes(std::move(size));
  for (const auto& [name, suffix] : model.picture->styles) pictures->add_styles(name);
}

}  // namespace qianyi
