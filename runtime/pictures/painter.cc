#include "runtime/pictures/painter.h"

#include <algorithm>
#include <deque>
#include <limits>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "runtime/given_text.h"
#include "runtime/pictures/magnify.h"

namespace qianyi {
namespace {

constexpr int64_t kMagnifySource = 16 * 16 + 5;  // codes and commands before the target block

// Scored under a distribution without image codes.
class TextScore : public GivenText {
 public:
  TextScore(std::vector<int32_t> text, int32_t image_tokens)
      : GivenText(std::move(text)), image_tokens_(image_tokens) {}
  void Mask(std::span<float> logits) override {
    std::fill(logits.begin(), logits.begin() + image_tokens_,
              -std::numeric_limits<float>::infinity());
  }

 private:
  const int32_t image_tokens_;
};

// [SIZE] [BOI1] codes [EOI1] [ROI1]
std::vector<int32_t> CaptionQuery(std::span<const int32_t> codes, const PictureConfig& config) {
  std::vector<int32_t> query = {config.Command(config.size_word), config.Command("[BOI1]")};
  query.insert(query.end(), codes.begin(), codes.end());
  query.push_back(config.Command("[EOI1]"));
  query.push_back(config.Command("[ROI1]"));
  return query;
}

// [ROI1] text WORD [BOI1]
std::vector<int32_t> PaintQuery(std::span<const int32_t> text, const std::string& size_word,
                                const PictureConfig& config) {
  std::vector<int32_t> query = {config.Command("[ROI1]")};
  query.insert(query.end(), text.begin(), text.end());
  query.push_back(config.Command(size_word));
  query.push_back(config.Command("[BOI1]"));
  return query;
}

// The ways back of several generations, and what rings when one of them has moved. An engine holds
// all of it by each sink that it has: it rings once more after a sink was closed.
struct Listeners {
  Bell bell;
  std::deque<Sink> sinks;
};
std::shared_ptr<Sink> AddSink(const std::shared_ptr<Listeners>& listeners, int64_t events) {
  Sink* sink = &listeners->sinks.emplace_back(events, 0, &listeners->bell);
  return {listeners, sink};
}

// Waits for all of the first `count`; `take` gets each token. The first error that one ends with.
template <typename Take>
absl::Status Drain(Listeners& listeners, size_t count, Take take) {
  std::vector<bool> open(count, true);
  absl::Status status;
  for (size_t left = count; left > 0;) {
    const uint32_t seen = listeners.bell.rings();
    for (size_t i = 0; i < count; ++i) {
      bool closed = false;
      while (open[i]) {
        const TokenEvent* event = listeners.sinks[i].Poll(&closed);
        if (event == nullptr) break;
        if (event->finish == FinishReason::kNone) take(i, event->token);
      }
      if (!open[i] || !closed) continue;
      open[i] = false;
      --left;
      status.Update(listeners.sinks[i].status());
    }
    if (left > 0) listeners.bell.Wait(seen);
  }
  return status;
}

}  // namespace

void PictureCall::Cancel() {
  std::lock_guard lock(mutex_);
  cancelled_ = true;
  for (const auto& [engine, id] : running_) engine->Cancel(id);
}

bool PictureCall::Add(Engine* engine, uint64_t id) {
  std::lock_guard lock(mutex_);
  running_.emplace_back(engine, id);
  if (cancelled_) engine->Cancel(id);
  return !cancelled_;
}

bool PictureCall::cancelled() {
  std::lock_guard lock(mutex_);
  return cancelled_;
}

void PictureCall::Clear() {
  std::lock_guard lock(mutex_);
  running_.clear();
}

int64_t PictureContext(const PictureConfig& config) {
  return config.positions + (config.magnifies ? kMagnifySource : 0);
}

absl::Status Painter::CheckPaints() const {
  if (parts_.paint.engine != nullptr) return absl::OkStatus();
  return absl::InvalidArgumentError(
      "this model does not paint, and no other does for it: the roles of its config.json lack "
      "paint");
}

absl::Status Painter::CheckText(std::span<const int32_t> text) const {
  const PictureConfig& config = *parts_.paint.config;
  // [ROI1], size and [BOI1] to paint it; two more for [EOI1] and [ROI1] to score it.
  const int64_t room =
      std::min(config.positions, parts_.paint.engine->plan().models[0].use.context_tokens) -
      config.codes() - 4;
  if (text.empty()) return absl::InvalidArgumentError("prompt is empty; say what to paint");
  if (static_cast<int64_t>(text.size()) > room) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "prompt has %d tokens with its style; beside a picture of %d codes there is room for %d; "
        "shorten it",
        text.size(), config.codes(), std::max<int64_t>(0, room)));
  }
  for (const int32_t id : text) {
    if (id < config.image_tokens || id >= config.image_tokens + config.text_tokens) {
      return absl::InvalidArgumentError(
          absl::StrFormat("token %d is no text of this model (%d..%d)", id, config.image_tokens,
                          config.image_tokens + config.text_tokens - 1));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> Painter::EncodeCaption(std::string_view text,
                                                            std::string_view style) const {
  if (parts_.tokenizer == nullptr) {
    return absl::FailedPreconditionError("the model has no tokenizer; give token ids");
  }
  if (absl::Status status = CheckPaints(); !status.ok()) return status;
  const absl::StatusOr<std::string> suffix = parts_.paint.config->StyleSuffix(style);
  if (!suffix.ok()) return suffix.status();
  absl::StatusOr<std::vector<int32_t>> ids =
      parts_.tokenizer->Encode(absl::StrCat(std::string(text), *suffix), /*specials=*/false);
  if (!ids.ok()) return ids.status();
  if (text.find_first_not_of(" \t\r\n") == std::string_view::npos) ids->clear();
  if (absl::Status status = CheckText(*ids); !status.ok()) return status;
  return ids;
}

absl::Status Painter::Check(const PaintRequest& request) const {
  if (absl::Status status = CheckPaints(); !status.ok()) return status;
  if (absl::Status status = CheckText(request.text); !status.ok()) return status;
  const int64_t places = parts_.paint.engine->plan().models[0].use.batch;
  if (request.pictures < 1 || request.candidates < request.pictures ||
      request.candidates > places) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "candidates is %d and n is %d; they are 1..%d, and as many candidates as pictures at least",
        request.candidates, request.pictures, places));
  }
  const bool scores = request.score || request.candidates > request.pictures;
  if (scores && parts_.caption.engine == nullptr) {
    return absl::InvalidArgumentError(
        "no model here can score pictures: the roles of its config.json lack caption; ask for as "
        "many candidates as pictures");
  }
  if (request.magnify &&
      (parts_.magnify.engine == nullptr || parts_.paint.config->grid != kMagnifySourceGrid)) {
    return absl::InvalidArgumentError(
        "pictures of this model cannot be magnified: that takes 32 codes on a side, and a model "
        "whose config.json has the role magnify");
  }
  if (!request.canvas.empty() &&
      std::count(request.canvas.begin(), request.canvas.end(), kGeneratedPlace) == 0) {
    return absl::InvalidArgumentError("mask leaves nothing to paint: no part of it is transparent");
  }
  return absl::OkStatus();
}

absl::Status Painter::PaintCandidates(const PaintRequest& request, PictureCall& call,
                                      const OnProgress& progress,
                                      std::vector<Painted>* painted) const {
  const PictureConfig& config = *parts_.paint.config;
  std::vector<int32_t> canvas = request.canvas;
  if (canvas.empty()) canvas.assign(config.codes(), kGeneratedPlace);
  std::vector<int32_t> query = PaintQuery(request.text, config.size_word, config);
  query.insert(query.end(), canvas.begin(), canvas.end());
  absl::StatusOr<Prompt> prompt = LayOutQuery(query, config);
  if (!prompt.ok()) return prompt.status();
  const std::vector<TokenRange> ranges = QueryRanges(query, config);
  GenerateRequest generate{.prompt = *std::move(prompt),
                           .sampling = request.sampling,
                           .max_tokens = static_cast<int32_t>(ranges.size()),
                           .end_tokens = {},
                           .turn = call.turn_};
  const auto listeners = std::make_shared<Listeners>();
  std::vector<Engine::Candidate> candidates;
  for (int32_t i = 0; i < request.candidates; ++i) {
    Engine::Candidate& candidate = candidates.emplace_back();
    candidate.sampling = request.sampling;
    candidate.sampling.seed += static_cast<uint64_t>(i);
    candidate.sink = AddSink(listeners, Engine::MaxEvents(generate));
    candidate.constraint = MakeQueryConstraint(ranges);
    painted->push_back({.codes = canvas, .side = config.grid, .candidate = i});
  }
  const absl::StatusOr<uint64_t> id =
      parts_.paint.engine->Submit(std::move(generate), std::move(candidates));
  if (!id.ok()) return id.status();
  call.Add(parts_.paint.engine, *id);
  std::vector<size_t> next(request.candidates, 0);
  const size_t count = static_cast<size_t>(request.candidates);
  const absl::Status status = Drain(*listeners, count, [&](size_t i, const SampledToken& token) {
    std::vector<int32_t>& codes = (*painted)[i].codes;
    while (next[i] < codes.size() && codes[next[i]] != kGeneratedPlace) ++next[i];
    if (next[i] < codes.size()) codes[next[i]++] = token.token;
    if (progress) {
      progress({.stage = PaintProgress::Stage::kPainting,
                .candidate = static_cast<int32_t>(i),
                .codes = codes,
                .done = static_cast<int64_t>(next[i])});
    }
  });
  call.Clear();
  return status;
}

absl::Status Painter::Score(const PaintRequest& request, PictureCall& call,
                            std::vector<Painted>* painted) const {
  const PictureConfig& config = *parts_.caption.config;
  const auto listeners = std::make_shared<Listeners>();
  absl::Status status;
  size_t submitted = 0;
  for (const Painted& one : *painted) {
    std::vector<int32_t> query = CaptionQuery(one.codes, config);
    query.resize(query.size() + request.text.size(), kGeneratedPlace);
    absl::StatusOr<Prompt> prompt = LayOutQuery(query, config);
    if (!prompt.ok()) {
      status = prompt.status();
      break;
    }
    GenerateRequest generate{.prompt = *std::move(prompt),
                             .sampling = {},
                             .max_tokens = static_cast<int32_t>(request.text.size()),
                             .end_tokens = {},
                             .turn = call.turn_};
    auto sink = AddSink(listeners, Engine::MaxEvents(generate));
    const absl::StatusOr<uint64_t> id = parts_.caption.engine->Submit(
        std::move(generate), std::move(sink),
        std::make_unique<TextScore>(request.text, config.image_tokens));
    if (!id.ok()) {
      status = id.status();
      break;
    }
    ++submitted;
    call.Add(parts_.caption.engine, *id);
  }
  // What was submitted before an error still runs to its end, into sinks that live until then.
  std::vector<double> scores(submitted, 0);
  status.Update(Drain(*listeners, submitted,
                      [&](size_t i, const SampledToken& token) { scores[i] += token.logprob; }));
  call.Clear();
  for (size_t i = 0; i < scores.size(); ++i) {
    (*painted)[i].scored = true;
    (*painted)[i].score = scores[i];
  }
  return status;
}

absl::Status Painter::Magnify(const PaintRequest& request, PictureCall& call,
                              const OnProgress& progress, Painted* painted) const {
  const PictureConfig& config = *parts_.magnify.config;
  const std::vector<int32_t> text = PaintQuery(request.text, "[BASE]", config);
  std::vector<int32_t> target(painted->codes.size() * 4, kGeneratedPlace);
  uint64_t window_number = 0;
  for (const MagnifyWindow& window : kMagnifyWindows) {
    std::vector<int32_t> query = MagnifyQuery(window, text, painted->codes, target, config);
    absl::StatusOr<Prompt> prompt = LayOutQuery(query, config);
    if (!prompt.ok()) return prompt.status();
    std::vector<TokenRange> ranges = QueryRanges(query, config);
    GenerateRequest generate{.prompt = *std::move(prompt),
                             .sampling = {},
                             .max_tokens = static_cast<int32_t>(ranges.size()),
                             .end_tokens = {},
                             .turn = call.turn_};
    generate.sampling.temperature = config.temperature;
    generate.sampling.top_k = config.top_k;
    // Seeds of windows lie far from those of candidates.
    generate.sampling.seed = request.sampling.seed + painted->candidate + (++window_number << 32);
    const auto listeners = std::make_shared<Listeners>();
    auto sink = AddSink(listeners, Engine::MaxEvents(generate));
    const absl::StatusOr<uint64_t> id = parts_.magnify.engine->Submit(
        std::move(generate), std::move(sink), MakeQueryConstraint(std::move(ranges)));
    if (!id.ok()) return id.status();
    call.Add(parts_.magnify.engine, *id);
    size_t next = 0;
    const absl::Status status = Drain(*listeners, 1, [&](size_t, const SampledToken& token) {
      while (next < query.size() && query[next] != kGeneratedPlace) ++next;
      if (next < query.size()) query[next++] = token.token;
    });
    call.Clear();
    if (!status.ok()) return status;
    TakeMagnified(window, query, &target);
    if (progress) {
      const auto missing = std::count(target.begin(), target.end(), kGeneratedPlace);
      progress({.stage = PaintProgress::Stage::kMagnifying,
                .candidate = painted->candidate,
                .codes = target,
                .done = static_cast<int64_t>(target.size()) - missing});
    }
  }
  painted->codes = std::move(target);
  painted->side *= 2;
  return absl::OkStatus();
}

absl::StatusOr<std::vector<Painted>> Painter::Paint(const PaintRequest& request, PictureCall& call,
                                                    const OnProgress& progress) const {
  absl::Status status = Check(request);
  if (!status.ok()) return status;
  std::vector<Painted> painted;
  status = PaintCandidates(request, call, progress, &painted);
  if (!status.ok()) return status;
  if (request.score || request.candidates > request.pictures) {
    if (progress) progress({.stage = PaintProgress::Stage::kScoring, .codes = {}});
    status = Score(request, call, &painted);
    if (!status.ok()) return status;
    std::stable_sort(painted.begin(), painted.end(),
                     [](const Painted& a, const Painted& b) { return a.score > b.score; });
  }
  painted.resize(request.pictures);
  for (Painted& one : painted) {
    if (!request.magnify) break;
    status = Magnify(request, call, progress, &one);
    if (!status.ok()) return status;
  }
  // The engine may have been done before it heard of it.
  if (call.cancelled()) return absl::CancelledError("the request was cancelled");
  return painted;
}

absl::StatusOr<std::vector<int32_t>> Painter::Encode(const Picture& picture) const {
  if (parts_.vqvae == nullptr) {
    return absl::FailedPreconditionError("the model has no VQ-VAE beside it, to read pictures");
  }
  const PictureConfig& config =
      *(parts_.caption.config != nullptr ? parts_.caption : parts_.paint).config;
  const int64_t side = config.grid * parts_.vqvae->config().factor();
  const Picture sized = ResizeAndCrop(picture, side);
  return parts_.vqvae->Nearest(
      parts_.vqvae->Features(ToPixels(sized, parts_.vqvae->config()), side, side));
}

absl::StatusOr<std::vector<int32_t>> Painter::Canvas(const Picture& picture,
                                                     const Picture& mask) const {
  if (mask.width != picture.width || mask.height != picture.height) {
    return absl::InvalidArgumentError(
        absl::StrFormat("mask is %dx%d but image is %dx%d; they must have the same size",
                        mask.width, mask.height, picture.width, picture.height));
  }
  if (mask.channels != 4) {
    return absl::InvalidArgumentError(
        "mask has no transparency; what is to be painted must be transparent in it (PNG or WebP)");
  }
  absl::StatusOr<std::vector<int32_t>> codes = Encode(picture);
  if (!codes.ok()) return codes;
  // The mask goes the picture's way, its alpha as a colour: what is not wholly opaque is painted.
  Picture alpha = {mask.width, mask.height, 3, {}};
  for (size_t i = 3; i < mask.bytes.size(); i += 4)
    alpha.bytes.insert(alpha.bytes.end(), 3, mask.bytes[i]);
  const int64_t factor = parts_.vqvae->config().factor(), grid = parts_.paint.config->grid;
  const Picture sized = ResizeAndCrop(alpha, grid * factor);
  for (int64_t y = 0; y < sized.height; ++y) {
    for (int64_t x = 0; x < sized.width; ++x) {
      if (sized.bytes[(y * sized.width + x) * 3] >= 128) continue;
      (*codes)[y / factor * grid + x / factor] = kGeneratedPlace;
    }
  }
  return codes;
}

Picture Painter::Decode(std::span<const int32_t> codes, int32_t side) const {
  std::vector<int32_t> known(codes.begin(), codes.end());
  const bool partial = std::count(known.begin(), known.end(), kGeneratedPlace) > 0;
  for (int32_t& code : known) code = std::max(code, 0);
  const int64_t factor = parts_.vqvae->config().factor(), pixels = side * factor;
  Picture picture =
      ToPicture(parts_.vqvae->Decode(known, side, side), pixels, pixels, parts_.vqvae->config());
  constexpr uint8_t kGrey = 128;
  for (int64_t i = 0; partial && i < static_cast<int64_t>(codes.size()); ++i) {
    if (codes[i] != kGeneratedPlace) continue;
    for (int64_t y = 0; y < factor; ++y) {
      const int64_t at = ((i / side * factor + y) * pixels + i % side * factor) * 3;
      std::fill_n(picture.bytes.begin() + at, factor * 3, kGrey);
    }
  }
  return picture;
}

absl::StatusOr<Painter::Caption> Painter::Describe(std::span<const int32_t> codes,
                                                   const SamplingParams& sampling,
                                                   PictureCall& call) const {
  if (parts_.caption.engine == nullptr) {
    return absl::InvalidArgumentError(
        "no model here can describe pictures: the roles of its config.json lack caption");
  }
  const PictureConfig& config = *parts_.caption.config;
  std::vector<int32_t> query = CaptionQuery(codes, config);
  query.resize(query.size() + config.caption_tokens, kGeneratedPlace);
  absl::StatusOr<Prompt> prompt = LayOutQuery(query, config);
  if (!prompt.ok()) return prompt.status();
  GenerateRequest generate{.prompt = *std::move(prompt),
                           .sampling = sampling,
                           .max_tokens = config.caption_tokens,
                           .end_tokens = config.caption_end_ids,
                           .turn = call.turn_};
  generate.sampling.report_logprob = true;
  const auto listeners = std::make_shared<Listeners>();
  auto sink = AddSink(listeners, Engine::MaxEvents(generate));
  const absl::StatusOr<uint64_t> id = parts_.caption.engine->Submit(
      std::move(generate), std::move(sink), MakeQueryConstraint(QueryRanges(query, config)));
  if (!id.ok()) return id.status();
  call.Add(parts_.caption.engine, *id);
  std::vector<int32_t> text;
  Caption caption;
  const absl::Status status = Drain(*listeners, 1, [&](size_t, const SampledToken& token) {
    text.push_back(token.token);
    caption.log_probability += token.logprob;
  });
  call.Clear();
  if (!status.ok()) return status;
  caption.tokens = static_cast<int64_t>(text.size());
  if (parts_.tokenizer == nullptr) {
    for (const int32_t token : text)
      absl::StrAppend(&caption.text, caption.text.empty() ? "" : ",", token);
    return caption;
  }
  absl::StatusOr<std::string> decoded = parts_.tokenizer->Decode(text);
  if (!decoded.ok()) return decoded.status();
  caption.text = *std::move(decoded);
  return caption;
}

}  // namespace qianyi
