#include "server/image_call.h"

#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "runtime/pictures/magnify.h"
#include "runtime/pictures/picture_file.h"
#include "server/error.h"

namespace qianyi {
namespace {

// Of a client's picture; what lies within takes kUploadBytes at most.
constexpr PictureLimits kLimits = {.file_bytes = 2 << 20, .side = 4096, .pixels = 4 << 20};
constexpr int64_t kMostPartials = 64;  // of all pictures of a request: a client may read slowly
constexpr int64_t kCommandTokens = 3;  // [ROI1], the size and [BOI1]

// Below 2^53, so that every client can send it back.
uint64_t DrawSeed() {
  thread_local std::mt19937_64 random{std::random_device{}()};
  return random() >> 11;
}

bool IsSet(const Parameters& parameters, std::string_view name) {
  return std::find(parameters.set.begin(), parameters.set.end(), name) != parameters.set.end();
}

absl::StatusOr<Picture> Read(const std::string& file, const char* param) {
  absl::StatusOr<Picture> picture = DecodePicture(file, kLimits);
  if (picture.ok()) return picture;
  return BadParam(param, absl::StrCat(param, ": ", picture.status().message()));
}

std::string Square(int64_t side) { return absl::StrFormat("%dx%d", side, side); }

}  // namespace

std::vector<std::string> PictureSizes(const Painter& painter) {
  const Painter::Parts& parts = painter.parts();
  if (parts.vqvae == nullptr || parts.paint.engine == nullptr) return {};
  const int64_t side = parts.paint.config->grid * parts.vqvae->config().factor();
  if (parts.magnify.engine == nullptr || parts.paint.config->grid != kMagnifySourceGrid) {
    return {Square(side)};
  }
  return {Square(side), Square(2 * side)};
}

// Tells of whole rows, and shows as many partial pictures as were asked for.
class ImageCall::Reporter {
 public:
  Reporter(ImageCall& call, ImageMetrics& metrics)
      : call_(call),
        metrics_(metrics),
        grid_(call.painter_.parts().paint.config->grid),
        progress_(call.paint_.candidates) {}

  void operator()(const PaintProgress& now) {
    if (now.stage != PaintProgress::Stage::kPainting) {
      Tell({.stage = now.stage,
            .picture = now.candidate,
            .done = now.done,
            .total = static_cast<int64_t>(now.codes.size())});
      return;
    }
    Candidate& candidate = progress_[now.candidate];
    const int64_t rows = now.done / grid_;
    if (rows <= candidate.rows) return;
    candidate.rows = rows;
    if (!std::exchange(begun_, true)) {
      metrics_.Of(call_.model_, call_.request_.work).first_seconds.Observe(call_.Seconds());
    }
    ImageProgress progress = {
        .stage = now.stage, .picture = now.candidate, .done = rows * grid_, .total = grid_ * grid_};
    if (now.candidate < call_.paint_.pictures && rows < grid_ && IsDue(rows, &candidate)) {
      absl::StatusOr<std::string> file =
          EncodePicture(call_.painter_.Decode(now.codes, static_cast<int32_t>(grid_)),
                        call_.request_.format, call_.request_.quality);
      if (file.ok()) {
        progress.partial = candidate.shown++;
        progress.file = *std::move(file);
      }
    }
    Tell(std::move(progress));
  }

 private:
  struct Candidate {
    int64_t rows = 0;
    int64_t due = 0;  // partial pictures whose row has come
    int shown = 0;
  };

  // Partial k of P is due with row ceil((k + 1) / (P + 1) of the picture).
  bool IsDue(int64_t rows, Candidate* candidate) const {
    const int64_t wanted = call_.request_.stream ? call_.request_.partial_images : 0;
    const int64_t before = candidate->due;
    while (candidate->due < wanted && rows * (wanted + 1) >= (candidate->due + 1) * grid_) {
      ++candidate->due;
    }
    return candidate->due > before;
  }
  void Tell(ImageProgress progress) { call_.listener_->OnProgress(std::move(progress)); }

  ImageCall& call_;
  ImageMetrics& metrics_;
  const int64_t grid_;
  std::vector<Candidate> progress_;
  bool begun_ = false;
};

ImageCall::ImageCall(const ServedModel& model, const Painter& painter, ImageRequest request)
    : model_(model), painter_(painter), request_(std::move(request)) {
  Parameters& parameters = request_.parameters;
  if (!parameters.seeded) parameters.sampling.seed = DrawSeed();
  accepted_ = {.model = &model_,
               .work = request_.work,
               .seed = parameters.sampling.seed,
               .pictures = parameters.n,
               .prompt_tokens = 0,
               .size = {},
               .format = request_.format};
}

absl::StatusOr<std::unique_ptr<ImageCall>> ImageCall::Prepare(const ServedModel& model,
                                                              const Painter& painter,
                                                              ImageRequest request) {
  std::unique_ptr<ImageCall> call(new ImageCall(model, painter, std::move(request)));
  absl::Status status = call->CheckFields();
  if (status.ok() && call->request_.work != ImageWork::kCaption) status = call->PreparePainting();
  if (!status.ok()) return status;
  return call;
}

absl::Status ImageCall::CheckFields() const {
  const Painter::Parts& parts = painter_.parts();
  const bool captions = request_.work == ImageWork::kCaption;
  const char* missing = parts.vqvae == nullptr ? "a VQ-VAE beside it, to show pictures or read them"
                        : parts.tokenizer == nullptr ? "a tokenizer, to read and write text"
                        : captions && parts.caption.engine == nullptr
                            ? "the role caption in its config.json, nor has another model here"
                        : !captions && parts.paint.engine == nullptr
                            ? "the role paint in its config.json, nor has another model here"
                            : nullptr;
  if (missing != nullptr) {
    return BadParam("model",
                    absl::StrFormat("model %s lacks %s; name another", model_.name, missing));
  }
  if (request_.work == ImageWork::kGenerate) {
    for (const auto& [name, file] :
         {std::pair("image", &request_.image), {"mask", &request_.mask}}) {
      if (file->empty()) continue;
      return BadParam(name, absl::StrFormat("%s means nothing where a picture is painted anew; "
                                            "remove it, or edit the picture (/v1/images/edits)",
                                            name));
    }
    return absl::OkStatus();
  }
  if (request_.image.empty())
    return BadParam("image", "image is missing: a PNG, JPEG or WebP file");
  if (!captions) return absl::OkStatus();
  const bool several = request_.parameters.n != 1;
  for (const auto& [name, given] : {std::pair("prompt", !request_.prompt.empty()),
                                    {"style", !request_.style.empty()},
                                    {"mask", !request_.mask.empty()},
                                    {"stream", request_.stream},
                                    {"n", several}}) {
    if (given)
      return BadParam(name, absl::StrFormat("%s means nothing for captions; remove it", name));
  }
  return absl::OkStatus();
}

absl::Status ImageCall::PrepareSize() {
  const std::vector<std::string> sizes = PictureSizes(painter_);
  const std::string& size = request_.size;
  accepted_.size = sizes.front();
  if (size.empty() || size == "auto" || size == sizes.front()) return absl::OkStatus();
  if (size != sizes.back()) {
    return BadParam("size",
                    absl::StrFormat("size is %s; model %s paints %s: say so, or leave it out", size,
                                    model_.name, absl::StrJoin(sizes, " or ")));
  }
  paint_.magnify = true;
  accepted_.size = size;
  return absl::OkStatus();
}

absl::Status ImageCall::PrepareCounts() {
  const int64_t n = request_.parameters.n;
  const int64_t places = painter_.parts().paint.engine->plan().models[0].use.batch;
  if (n > places) {
    return BadParam("n", absl::StrFormat("n is %d; the pictures of a request are painted together, "
                                         "and here are %d places: ask for 1..%d, or raise --batch",
                                         n, places, places));
  }
  const int64_t candidates = request_.candidates > 0 ? request_.candidates : n;
  if (candidates < n || candidates > places) {
    return BadParam("candidates",
                    absl::StrFormat("candidates is %d; it must be %d..%d: at least n, "
                                    "and at most the server's --batch",
                                    candidates, n, places));
  }
  if (request_.stream && request_.partial_images * n > kMostPartials) {
    return BadParam(
        "partial_images",
        absl::StrFormat("partial_images is %d of each of %d pictures; there may be %d in "
                        "all: ask for 0..%d",
                        request_.partial_images, n, kMostPartials, kMostPartials / n));
  }
  paint_.pictures = static_cast<int32_t>(n);
  paint_.candidates = static_cast<int32_t>(candidates);
  paint_.score = request_.return_scores;
  return absl::OkStatus();
}

absl::Status ImageCall::PreparePainting() {
  const PictureConfig& config = *painter_.parts().paint.config;
  if (absl::Status status = PrepareSize(); !status.ok()) return status;
  if (absl::Status status = PrepareCounts(); !status.ok()) return status;
  if (auto suffix = config.StyleSuffix(request_.style); !suffix.ok()) {
    return WithParam(suffix.status(), "style");
  }
  absl::StatusOr<std::vector<int32_t>> text =
      painter_.EncodeCaption(request_.prompt, request_.style);
  if (!text.ok()) {
    const bool empty = request_.prompt.find_first_not_of(" \t\r\n") == std::string::npos;
    return WithParam(empty ? text.status() : WithCode(text.status(), "context_length_exceeded"),
                     "prompt");
  }
  paint_.text = *std::move(text);
  accepted_.prompt_tokens = static_cast<int64_t>(paint_.text.size()) + kCommandTokens;
  const Parameters& given = request_.parameters;
  paint_.sampling = given.sampling;
  if (!IsSet(given, "top_k")) paint_.sampling.top_k = config.top_k;
  if (!IsSet(given, "temperature")) paint_.sampling.temperature = config.temperature;
  // What is left to go wrong is a model that cannot score.
  absl::Status status = painter_.Check(paint_);
  const char* param = paint_.candidates > paint_.pictures ? "candidates" : "return_scores";
  return status.ok() ? status : WithParam(std::move(status), param);
}

absl::Status ImageCall::ReadPictures(std::mutex& reading) {
  if (request_.work == ImageWork::kGenerate) return absl::OkStatus();
  std::lock_guard lock(reading);
  const std::string image = std::move(request_.image), mask = std::move(request_.mask);
  request_.image.clear();
  request_.mask.clear();
  absl::StatusOr<Picture> picture = Read(image, "image");
  if (!picture.ok()) return picture.status();
  if (request_.work == ImageWork::kCaption) {
    absl::StatusOr<std::vector<int32_t>> codes = painter_.Encode(*picture);
    if (codes.ok()) codes_ = *std::move(codes);
    return codes.status();
  }
  if (mask.empty() && picture->channels != 4) {
    return BadParam("mask",
                    "mask is missing, and image has no transparency either; what is to be "
                    "painted must be transparent in one of them (PNG or WebP)");
  }
  absl::StatusOr<Picture> hole = mask.empty() ? picture : Read(mask, "mask");
  if (!hole.ok()) return hole.status();
  absl::StatusOr<std::vector<int32_t>> canvas = painter_.Canvas(*picture, *hole);
  if (!canvas.ok()) return WithParam(canvas.status(), "mask");
  paint_.canvas = *std::move(canvas);
  absl::Status status = painter_.Check(paint_);
  return status.ok() ? status : WithParam(std::move(status), "mask");
}

absl::StatusOr<ImageResult> ImageCall::Paint(ImageMetrics& metrics) {
  Reporter reporter(*this, metrics);
  const absl::StatusOr<std::vector<Painted>> painted =
      painter_.Paint(paint_, call_, [&](const PaintProgress& now) { reporter(now); });
  if (!painted.ok()) return painted.status();
  ImageResult result;
  for (const Painted& one : *painted) {
    absl::StatusOr<std::string> file =
        EncodePicture(painter_.Decode(one.codes, one.side), request_.format, request_.quality);
    if (!file.ok()) return file.status();
    result.pictures.push_back({*std::move(file),
                               accepted_.seed + static_cast<uint64_t>(one.candidate),
                               one.scored && request_.return_scores, one.score});
  }
  const int64_t codes = painter_.parts().paint.config->codes();
  const int64_t drawn = paint_.canvas.empty() ? codes
                                              : std::count(paint_.canvas.begin(),
                                                           paint_.canvas.end(), kGeneratedPlace);
  result.image_tokens = paint_.canvas.empty() ? 0 : codes - drawn;
  result.output_tokens = drawn * paint_.candidates;
  if (paint_.magnify) result.output_tokens += 4 * codes * paint_.pictures;
  return result;
}

absl::StatusOr<ImageResult> ImageCall::Describe() {
  SamplingParams sampling = request_.parameters.sampling;
  if (!IsSet(request_.parameters, "temperature")) sampling.temperature = 0;
  absl::StatusOr<Painter::Caption> caption = painter_.Describe(codes_, sampling, call_);
  if (!caption.ok()) return caption.status();
  ImageResult result;
  result.caption = *std::move(caption);
  result.image_tokens = static_cast<int64_t>(codes_.size());
  result.output_tokens = result.caption.tokens;
  return result;
}

absl::StatusOr<ImageResult> ImageCall::Work(std::mutex& reading, ImageMetrics& metrics) {
  if (absl::Status status = ReadPictures(reading); !status.ok()) return status;
  return request_.work == ImageWork::kCaption ? Describe() : Paint(metrics);
}

void ImageCall::End(const absl::StatusOr<ImageResult>& result, ImageMetrics& metrics) {
  ImageMetrics::Work& counts = metrics.Of(model_, request_.work);
  counts.finished.Count(result.status(), FinishReason::kStop);
  if (result.ok()) {
    const bool captions = request_.work == ImageWork::kCaption;
    counts.pictures.Increment(captions ? 1 : static_cast<double>(result->pictures.size()));
    counts.codes.Increment(static_cast<double>(result->output_tokens));
    if (captions) counts.first_seconds.Observe(Seconds());
    counts.seconds.Observe(Seconds());
  }
  if (result.ok()) {
    ticket_.Spend(accepted_.prompt_tokens + result->image_tokens + result->output_tokens);
  }
  ticket_ = Ticket();  // before the client hears of the end, and asks again
  listener_->OnEnd(result);
}

double ImageCall::cost() const {
  return static_cast<double>(paint_.candidates) * (paint_.magnify ? 5 : 1);
}

double ImageCall::Seconds() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
}

}  // namespace qianyi
