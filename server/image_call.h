// One request about pictures on its way: checked, painted, and made into files.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/pictures/painter.h"
#include "server/admission.h"
#include "server/image_metrics.h"
#include "server/image_request.h"
#include "server/served_model.h"

namespace qianyi {

// What an accepted request turned out to be.
struct AcceptedImage {
  const ServedModel* model = nullptr;
  ImageWork work = ImageWork::kGenerate;
  uint64_t seed = 0;
  int64_t pictures = 1;
  int64_t prompt_tokens = 0;
  std::string size;  // "64x64"
  PictureFormat format = PictureFormat::kPng;
};

struct ImageProgress {
  PaintProgress::Stage stage = PaintProgress::Stage::kPainting;
  int32_t picture = 0;    // which candidate
  int64_t done = 0;       // codes of it that are there, by whole rows
  int64_t total = 0;      // 0 while scoring
  int partial = -1;       // which partial picture of it this is; -1: none
  std::string file = {};  // that picture
};

struct FinishedPicture {
  std::string file;
  uint64_t seed = 0;  // that paints it alone
  bool scored = false;
  double score = 0;
};

// Of a caption, `caption`; else `pictures`, best first where they were scored.
struct ImageResult {
  std::vector<FinishedPicture> pictures;
  Painter::Caption caption;
  int64_t image_tokens = 0;   // codes that were read
  int64_t output_tokens = 0;  // codes or words that were written
};

// Hears of one request, on a thread of the service. Must not block.
class ImageListener {
 public:
  virtual ~ImageListener() = default;
  virtual void OnProgress(ImageProgress progress) = 0;
  virtual void OnEnd(const absl::StatusOr<ImageResult>& result) = 0;  // the last call
};

// "64x64", and where pictures can be magnified "128x128"; none without a VQ-VAE to show them.
std::vector<std::string> PictureSizes(const Painter& painter);

class ImageCall {
 public:
  // All that can be checked before anything is read or run. Errors name the field at fault. `model`
  // and `painter` outlive the result.
  static absl::StatusOr<std::unique_ptr<ImageCall>> Prepare(const ServedModel& model,
                                                            const Painter& painter,
                                                            ImageRequest request);
  const AcceptedImage& accepted() const { return accepted_; }
  // What it was let in with, held until its end.
  void Hold(Ticket ticket) {
    ticket_ = std::move(ticket);
    call_.UseTurn(ticket_.turn());
  }
  // When it is to get a thread: by whose account, and how much there is to be drawn.
  const Turn& turn() const { return ticket_.turn(); }
  double cost() const;
  void Listen(std::unique_ptr<ImageListener> listener) { listener_ = std::move(listener); }
  void Cancel() { call_.Cancel(); }  // from any thread

  // Blocks until it is done. `reading` is held while the client's pictures are in memory.
  absl::StatusOr<ImageResult> Work(std::mutex& reading, ImageMetrics& metrics);
  // Tells the listener.
  void End(const absl::StatusOr<ImageResult>& result, ImageMetrics& metrics);

 private:
  class Reporter;

  ImageCall(const ServedModel& model, const Painter& painter, ImageRequest request);
  absl::Status CheckFields() const;
  absl::Status PreparePainting();
  absl::Status PrepareSize();
  absl::Status PrepareCounts();
  absl::Status ReadPictures(std::mutex& reading);
  absl::StatusOr<ImageResult> Paint(ImageMetrics& metrics);
  absl::StatusOr<ImageResult> Describe();
  double Seconds() const;

  const ServedModel& model_;
  const Painter& painter_;
  ImageRequest request_;
  AcceptedImage accepted_;
  PaintRequest paint_;
  std::vector<int32_t> codes_;  // of a picture to be described
  PictureCall call_;
  Ticket ticket_;
  std::unique_ptr<ImageListener> listener_;
  const std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

}  // namespace qianyi
