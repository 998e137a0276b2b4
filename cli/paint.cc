#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/command.h"
#include "cli/ids.h"
#include "cli/pictures.h"
#include "runtime/memory_size.h"
#include "runtime/pictures/picture_file.h"

namespace qianyi {
namespace {

struct PaintFlags {
  PictureModelFlags model;
  std::string text, style, text_ids;
  std::string image, mask;
  OutputFlags output;
  int32_t pictures = 1;
  int32_t candidates = 0;
  int32_t top_k = -1;
  float temperature = -1.0f;
  uint64_t seed = 0;
  bool magnify = false, scores = false, print_codes = false, quiet = false;
};

absl::StatusOr<PaintRequest> MakeRequest(const PaintFlags& flags, const Painter& painter) {
  if (absl::Status status = painter.CheckPaints(); !status.ok()) return status;
  PaintRequest request;
  request.pictures = flags.pictures;
  request.candidates = std::max(flags.pictures, flags.candidates);
  request.score = flags.scores;
  request.magnify = flags.magnify;
  const PictureConfig& config = *painter.parts().paint.config;
  request.sampling.seed = flags.seed;
  request.sampling.top_k = flags.top_k >= 0 ? flags.top_k : config.top_k;
  request.sampling.temperature = flags.temperature >= 0 ? flags.temperature : config.temperature;
  absl::StatusOr<std::vector<int32_t>> text = flags.text_ids.empty()
                                                  ? painter.EncodeCaption(flags.text, flags.style)
                                                  : ParseIds("--text-ids", flags.text_ids);
  if (!text.ok()) return text.status();
  request.text = *std::move(text);
  if (flags.image.empty() != flags.mask.empty()) {
    return absl::InvalidArgumentError(
        "--image and --mask go together: what the mask leaves out is painted anew");
  }
  if (!flags.image.empty()) {
    const absl::StatusOr<Picture> image = ReadPicture(flags.image), mask = ReadPicture(flags.mask);
    if (!image.ok()) return image.status();
    if (!mask.ok()) return mask.status();
    absl::StatusOr<std::vector<int32_t>> canvas = painter.Canvas(*image, *mask);
    if (!canvas.ok()) return canvas.status();
    request.canvas = *std::move(canvas);
  }
  absl::Status status = painter.Check(request);
  if (!status.ok()) return status;
  return request;
}

absl::Status Print(const PaintFlags& flags, const Painter& painter, PictureFormat format,
                   const std::vector<Painted>& painted) {
  for (size_t i = 0; i < painted.size(); ++i) {
    const Painted& one = painted[i];
    std::string line;
    if (flags.print_codes || painter.parts().vqvae == nullptr) {
      for (const int32_t code : one.codes) absl::StrAppend(&line, line.empty() ? "" : ",", code);
    } else {
      const absl::StatusOr<std::string> bytes =
          EncodePicture(painter.Decode(one.codes, one.side), format);
      if (!bytes.ok()) return bytes.status();
      line = flags.output.PathOf(i, flags.pictures);
      absl::Status status = WritePicture(line, *bytes);
      if (!status.ok()) return status;
    }
    if (one.scored && flags.scores) absl::StrAppendFormat(&line, "\t%.6f", one.score);
    std::printf("%s\n", line.c_str());
  }
  return absl::OkStatus();
}

absl::Status RunPaint(PaintFlags flags) {
  const absl::StatusOr<PictureFormat> format = flags.output.Format();
  if (!format.ok()) return format.status();
  auto models = OpenPictureModels(flags.model, std::max(flags.pictures, flags.candidates));
  if (!models.ok()) return models.status();
  const absl::StatusOr<Painter> painter = PainterOf(*models->front(), *models);
  if (!painter.ok()) return painter.status();
  const absl::StatusOr<PaintRequest> request = MakeRequest(flags, *painter);
  if (!request.ok()) return request.status();
  const auto start = std::chrono::steady_clock::now();
  PictureCall call;
  const int64_t all = painter->parts().paint.config->codes();
  PaintingProgress shown(flags.quiet);
  const absl::StatusOr<std::vector<Painted>> painted =
      painter->Paint(*request, call, [&](const PaintProgress& progress) {
        if (progress.candidate == 0 && progress.stage == PaintProgress::Stage::kPainting) {
          shown.Show(progress.done, all);
        }
      });
  if (!painted.ok()) return painted.status();
  if (!flags.quiet) {
    const EngineStats stats = models->front()->engine->stats();
    std::fprintf(
        stderr, "%d codes in %.2f s, %d steps of %.1f ms; peak memory %s\n",
        static_cast<int>(stats.generated_tokens),
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(),
        static_cast<int>(stats.steps),
        stats.steps > 0 ? 1e3 * stats.step_seconds / static_cast<double>(stats.steps) : 0.0,
        FormatSize(PeakResidentBytes()).c_str());
  }
  return Print(flags, *painter, *format, *painted);
}

}  // namespace

void AddPaint(CLI::App& app, Run* run) {
  auto flags = std::make_shared<PaintFlags>();
  CLI::App* command = app.add_subcommand("paint", "pictures from words");
  flags->model.Add(*command);
  auto* text = command->add_option("--text", flags->text, "what to paint");
  command->add_option("--text-ids", flags->text_ids, "the same as token ids, separated by commas")
      ->excludes(text);
  command->add_option("--style", flags->style,
                      "one of the styles that the model's config declares");
  command->add_option("--n", flags->pictures, "pictures to keep")
      ->check(CLI::Range(1, 128))
      ->capture_default_str();
  command
      ->add_option("--candidates", flags->candidates,
                   "pictures to paint, of which the best are kept [as many as --n]")
      ->check(CLI::Range(1, 128));
  command->add_option("--image", flags->image, "a picture to be changed")->type_name("FILE");
  command->add_option("--mask", flags->mask, "what is transparent in it is painted anew")
      ->type_name("FILE");
  flags->output.Add(*command);
  command->add_option("--top-k", flags->top_k, "[the model's]")->check(CLI::Range(0, 1 << 24));
  command
      ->add_option("--temperature", flags->temperature,
                   "0 = always the likeliest code [the model's]")
      ->check(CLI::Range(0.0, 100.0));
  AddSeed(*command, "--seed", &flags->seed, "candidate i is drawn with seed + i");
  command->add_flag("--magnify", flags->magnify, "to twice as many codes on a side");
  command->add_flag("--scores", flags->scores, "print log p(text | picture) behind each");
  command->add_flag("--print-codes", flags->print_codes, "codes instead of files");
  command->add_flag("--quiet", flags->quiet, "no progress");
  command->footer(
      "Prints the path of each picture.\n"
      "Example:\n  qianyi paint --model models/painter --text 一只猫 --style 轮廓画 --candidates 8 "
      "--output cat.png");
  command->callback([=] { *run = [=] { return RunPaint(*flags); }; });
}

}  // namespace qianyi
