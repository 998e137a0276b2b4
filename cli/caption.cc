#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "cli/command.h"
#include "cli/pictures.h"

namespace qianyi {
namespace {

struct CaptionFlags {
  PictureModelFlags model;
  std::vector<std::string> files;
  float temperature = 0.0f;
  uint64_t seed = 0;
  bool scores = false;
};

absl::Status RunCaption(const CaptionFlags& flags) {
  auto models = OpenPictureModels(flags.model, 1);
  if (!models.ok()) return models.status();
  const absl::StatusOr<Painter> painter = PainterOf(*models->front(), *models);
  if (!painter.ok()) return painter.status();
  SamplingParams sampling;
  sampling.temperature = flags.temperature;
  sampling.seed = flags.seed;
  for (const std::string& path : flags.files) {
    const absl::StatusOr<Picture> picture = ReadPicture(path);
    if (!picture.ok()) return picture.status();
    const absl::StatusOr<std::vector<int32_t>> codes = painter->Encode(*picture);
    if (!codes.ok()) return codes.status();
    PictureCall call;
    const absl::StatusOr<Painter::Caption> caption = painter->Describe(*codes, sampling, call);
    if (!caption.ok()) return caption.status();
    if (flags.scores) std::printf("%.6f\t", caption->log_probability);
    std::printf("%s\n", caption->text.c_str());
    if (std::fflush(stdout) != 0) return OutputError();
  }
  return absl::OkStatus();
}

}  // namespace

void AddCaption(CLI::App& app, Run* run) {
  auto flags = std::make_shared<CaptionFlags>();
  CLI::App* command = app.add_subcommand("caption", "words for pictures");
  flags->model.Add(*command);
  command->add_option("FILE", flags->files, "pictures: PNG, JPEG or WebP")->required();
  command->add_option("--temperature", flags->temperature, "0 = always the likeliest word")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();
  AddSeed(*command, "--seed", &flags->seed, "of what is drawn");
  command->add_flag("--scores", flags->scores, "print the log-probability before each");
  command->footer(
      "Prints a line for each picture.\n"
      "Example:\n  qianyi caption --model models/painter cat.png");
  command->callback([=] { *run = [=] { return RunCaption(*flags); }; });
}

}  // namespace qianyi
