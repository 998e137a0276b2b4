// Pictures from words, words from pictures: what a request of either kind does with the engines.
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/engine.h"
#include "runtime/pictures/picture.h"
#include "runtime/pictures/picture_config.h"
#include "runtime/pictures/picture_query.h"
#include "runtime/pictures/vqvae.h"
#include "runtime/tokenizers/tokenizer.h"

namespace qianyi {

struct PaintRequest {
  std::vector<int32_t> text;    // from Painter::EncodeCaption
  std::vector<int32_t> canvas;  // grid² codes, kGeneratedPlace where to paint; empty: everywhere
  int32_t candidates = 1;       // painted together
  int32_t pictures = 1;         // kept: the best by score where there are more candidates
  bool score = false;           // even where all are kept
  bool magnify = false;         // to twice as many codes on a side
  // Candidate i is drawn with seed + i.
  SamplingParams sampling;
};

struct Painted {
  std::vector<int32_t> codes;  // side × side, row-major
  int32_t side = 0;
  int32_t candidate = 0;
  bool scored = false;
  double score = 0;  // log-probability of the text given the picture: larger is better
};

struct PaintProgress {
  enum class Stage : uint8_t { kPainting, kScoring, kMagnifying };
  Stage stage = Stage::kPainting;
  int32_t candidate = 0;
  std::span<const int32_t> codes;  // of this candidate; kGeneratedPlace where there is none yet
  int64_t done = 0;                // codes of it that are there
};

// One request in progress, which another thread may cancel.
class PictureCall {
 public:
  void Cancel();
  // On whose account the engines work for it. Before it is given to a painter.
  void UseTurn(const Turn& turn) { turn_ = turn; }

 private:
  friend class Painter;
  bool Add(Engine* engine, uint64_t id);  // false: it was cancelled
  bool cancelled();
  void Clear();

  std::mutex mutex_;
  bool cancelled_ = false;
  Turn turn_;
  std::vector<std::pair<Engine*, uint64_t>> running_;
};

// A picture model in one of its roles; nothing is owned.
struct PictureEngine {
  Engine* engine = nullptr;  // null: there is none for this role
  const PictureConfig* config = nullptr;
};

// Thread-safe: a call blocks its thread while the engines work.
class Painter {
 public:
  struct Parts {
    PictureEngine paint, caption, magnify;
    Vqvae* vqvae = nullptr;                // null: codes only
    const Tokenizer* tokenizer = nullptr;  // null: ids only
  };
  explicit Painter(const Parts& parts) : parts_(parts) {}

  const Parts& parts() const { return parts_; }
  // Ids of a caption in a style. InvalidArgument for an empty caption, a style that the model does
  // not have, and a text that leaves no room for the picture.
  absl::StatusOr<std::vector<int32_t>> EncodeCaption(std::string_view text,
                                                     std::string_view style) const;
  absl::Status CheckPaints() const;  // that there is a model that does
  absl::Status CheckText(std::span<const int32_t> text) const;
  // What Paint refuses, before anything is run.
  absl::Status Check(const PaintRequest& request) const;

  using OnProgress = std::function<void(const PaintProgress&)>;
  // The pictures that are kept, best first where they were scored. Cancelled, ResourceExhausted
  // when the engine's queue is full, DataLoss from its weights.
  absl::StatusOr<std::vector<Painted>> Paint(const PaintRequest& request, PictureCall& call,
                                             const OnProgress& progress = {}) const;
  // The codes of a picture, resized and cut to the model's size.
  absl::StatusOr<std::vector<int32_t>> Encode(const Picture& picture) const;
  // What is transparent in `mask` is to be painted anew: the codes of `picture` with
  // kGeneratedPlace there. `mask` has the picture's size and an alpha channel.
  absl::StatusOr<std::vector<int32_t>> Canvas(const Picture& picture, const Picture& mask) const;
  // Places that are not there yet are grey.
  Picture Decode(std::span<const int32_t> codes, int32_t side) const;

  struct Caption {
    std::string text;
    double log_probability = 0;
    int64_t tokens = 0;
  };
  // What the model says about a picture's codes. `sampling`: temperature 0 for the likeliest words.
  absl::StatusOr<Caption> Describe(std::span<const int32_t> codes, const SamplingParams& sampling,
                                   PictureCall& call) const;

 private:
  absl::Status PaintCandidates(const PaintRequest& request, PictureCall& call,
                               const OnProgress& progress, std::vector<Painted>* painted) const;
  absl::Status Score(const PaintRequest& request, PictureCall& call,
                     std::vector<Painted>* painted) const;
  absl::Status Magnify(const PaintRequest& request, PictureCall& call, const OnProgress& progress,
                       Painted* painted) const;

  const Parts parts_;
};

// Tokens that a sequence of the model can need.
int64_t PictureContext(const PictureConfig& config);

}  // namespace qianyi
