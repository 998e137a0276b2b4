// The endpoints about pictures: answers whole or as events.
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "server/error.h"
#include "server/http/rest_api.h"
#include "server/http/rest_image_body.h"
#include "server/unix_time.h"

namespace qianyi {
namespace {

using nlohmann::json;
using Reply = std::shared_ptr<HttpReply>;

// Answers in OpenAI's shapes: {"created", "data": […]}, or an event for each partial picture and
// each finished one.
class ImageAnswer final : public ImageListener {
 public:
  ImageAnswer(const AcceptedImage& accepted, bool stream, Reply reply)
      : accepted_(accepted), stream_(stream), reply_(std::move(reply)) {}

  void OnProgress(ImageProgress progress) override {
    if (!stream_ || progress.partial < 0) return;
    json event = Event("partial_image");
    event["b64_json"] = absl::Base64Escape(progress.file);
    event["partial_image_index"] = progress.partial;
    event["picture"] = progress.picture;
    event["done"] = progress.done;
    event["total"] = progress.total;
    Send(event);
  }

  void OnEnd(const absl::StatusOr<ImageResult>& result) override {
    if (!result.ok()) {
      Fail(result.status());
      return;
    }
    if (!stream_) {
      reply_->Send({.status = 200,
                    .content_type = "application/json",
                    .body = absl::StrCat(Dump(Whole(*result)), "\n"),
                    .headers = {}});
      return;
    }
    for (size_t i = 0; i < result->pictures.size(); ++i) {
      json event = Event("completed");
      event.update(PictureJson(result->pictures[i]));
      event["picture"] = i;
      event["usage"] = UsageJson(*result);
      Send(event);
    }
    Begin();
    reply_->Write("data: [DONE]\n\n");
    reply_->EndStream();
  }

 private:
  void Begin() {
    if (std::exchange(begun_, true)) return;
    reply_->BeginStream({.status = 200,
                         .content_type = "text/event-stream",
                         .body = "",
                         .headers = {{"Cache-Control", "no-cache"}, {"X-Accel-Buffering", "no"}}});
  }
  void Send(const json& event) {
    Begin();
    reply_->Write(absl::StrCat("event: ", event["type"].get_ref<const std::string&>(),
                               "\ndata: ", Dump(event), "\n\n"));
  }
  void Fail(const absl::Status& status) {
    if (!begun_) {
      reply_->Send(ErrorResponse(status));
      return;
    }
    reply_->Write(absl::StrCat("data: ", ToJson(ToApiError(status)), "\n\n"));
    reply_->EndStream();
  }

  json Event(const char* what) const {
    const bool edits = accepted_.work == ImageWork::kEdit;
    return {{"type", absl::StrCat(edits ? "image_edit." : "image_generation.", what)},
            {"created_at", created_seconds_},
            {"model", accepted_.model->name},
            {"size", accepted_.size},
            {"quality", "auto"},
            {"background", "opaque"},
            {"output_format", PictureFormatName(accepted_.format)}};
  }
  static json PictureJson(const FinishedPicture& picture) {
    json entry = {{"b64_json", absl::Base64Escape(picture.file)}, {"seed", picture.seed}};
    if (picture.scored) entry["score"] = picture.score;
    return entry;
  }
  json UsageJson(const ImageResult& result) const {
    const int64_t input = accepted_.prompt_tokens + result.image_tokens;
    return {{"input_tokens", input},
            {"output_tokens", result.output_tokens},
            {"total_tokens", input + result.output_tokens},
            {"input_tokens_details",
             {{"text_tokens", accepted_.prompt_tokens}, {"image_tokens", result.image_tokens}}}};
  }
  json Whole(const ImageResult& result) const {
    json answer = {{"created", created_seconds_},
                   {"model", accepted_.model->name},
                   {"seed", accepted_.seed},
                   {"usage", UsageJson(result)},
                   {"data", json::array()}};
    if (accepted_.work == ImageWork::kCaption) {
      answer["object"] = "image.captions";
      answer["data"].push_back(
          {{"text", result.caption.text}, {"log_probability", result.caption.log_probability}});
      return answer;
    }
    answer["size"] = accepted_.size;
    answer["background"] = "opaque";
    answer["output_format"] = PictureFormatName(accepted_.format);
    for (const FinishedPicture& picture : result.pictures) {
      answer["data"].push_back(PictureJson(picture));
    }
    return answer;
  }

  const AcceptedImage accepted_;
  const bool stream_;
  const Reply reply_;
  const int64_t created_seconds_ = UnixSeconds();
  bool begun_ = false;
};

}  // namespace

void RestApi::AddImageRoutes() {
  routes_.push_back({Scope::kInference, "POST", "/v1/images/generations",
                     [this](const HttpRequest& request, const Reply& reply) {
                       StartImage(ImageWork::kGenerate, request, reply);
                     }});
  routes_.push_back({Scope::kInference, "POST", "/v1/images/edits",
                     [this](const HttpRequest& request, const Reply& reply) {
                       StartImage(ImageWork::kEdit, request, reply);
                     }});
  routes_.push_back({Scope::kInference, "POST", "/v1/images/captions",
                     [this](const HttpRequest& request, const Reply& reply) {
                       StartImage(ImageWork::kCaption, request, reply);
                     }});
}

void RestApi::StartImage(ImageWork work, const HttpRequest& request, const Reply& reply) {
  absl::StatusOr<ImageRequest> image = ParseImage(work, request.content_type, request.body);
  if (!image.ok()) {
    service_.metrics().CountRejected("invalid");
    reply->Send(ErrorResponse(image.status()));
    return;
  }
  const bool stream = image->stream;
  image->caller = request.caller;
  image->body_bytes = static_cast<int64_t>(request.body.size());
  const absl::StatusOr<uint64_t> call =
      images_.Start(*std::move(image), [&](const AcceptedImage& accepted) {
        return std::make_unique<ImageAnswer>(accepted, stream, reply);
      });
  if (!call.ok()) {
    reply->Send(ErrorResponse(call.status()));
    return;
  }
  reply->OnGone([this, id = *call] { images_.Cancel(id); });
}

}  // namespace qianyi
