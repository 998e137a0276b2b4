#include <cstdio>
#include <memory>
#include <optional>
#include <string>

#include "absl/strings/str_format.h"
#include "cli/client/commands.h"
#include "cli/pictures.h"
#include "runtime/storage/file_util.h"

namespace qianyi {
namespace {

struct ClientPaintFlags {
  ServerFlags server;
  std::string model, text, style, size;
  std::string image, mask;
  OutputFlags output;
  int64_t pictures = 1;
  std::optional<int64_t> candidates, top_k, seed;
  std::optional<double> temperature;
  bool scores = false, quiet = false;
};

constexpr uint64_t kPictureFileBytes = 64 << 20;  // the server says what it takes

absl::StatusOr<v1::GenerateImageRequest> MakeRequest(const ClientPaintFlags& flags) {
  const absl::StatusOr<PictureFormat> format = flags.output.Format();
  if (!format.ok()) return format.status();
  v1::GenerateImageRequest request;
  request.set_model(flags.model);
  request.set_prompt(flags.text);
  request.set_style(flags.style);
  request.set_size(flags.size);
  request.set_n(flags.pictures);
  request.set_output_format(std::string(PictureFormatName(*format)));
  request.set_return_scores(flags.scores);
  if (flags.candidates.has_value()) request.set_candidates(*flags.candidates);
  if (flags.seed.has_value()) request.set_seed(*flags.seed);
  if (flags.temperature.has_value()) request.set_temperature(*flags.temperature);
  if (flags.top_k.has_value()) request.set_top_k(*flags.top_k);
  return request;
}

absl::StatusOr<v1::EditImageRequest> MakeEdit(const ClientPaintFlags& flags,
                                              const v1::GenerateImageRequest& picture) {
  v1::EditImageRequest request;
  *request.mutable_picture() = picture;
  absl::StatusOr<std::string> image = ReadTextFile(flags.image, kPictureFileBytes);
  if (!image.ok()) return image.status();
  request.set_image(*std::move(image));
  if (flags.mask.empty()) return request;
  absl::StatusOr<std::string> mask = ReadTextFile(flags.mask, kPictureFileBytes);
  if (!mask.ok()) return mask.status();
  request.set_mask(*std::move(mask));
  return request;
}

// Shows how far it is, and returns what came last.
absl::StatusOr<v1::FinishedImages> Follow(const Connection& connection, bool quiet,
                                          grpc::ClientReader<v1::GenerateImageChunk>* stream) {
  PaintingProgress shown(quiet);
  v1::ImageProgress::Stage stage = v1::ImageProgress::STAGE_PAINTING;
  v1::FinishedImages finished;
  v1::GenerateImageChunk chunk;
  while (stream->Read(&chunk)) {
    if (chunk.has_finished()) finished = chunk.finished();
    if (!chunk.has_progress()) continue;
    const v1::ImageProgress& progress = chunk.progress();
    if (progress.stage() == v1::ImageProgress::STAGE_PAINTING) {
      if (progress.picture() == 0) shown.Show(progress.done(), progress.total());
    } else if (progress.stage() != stage && !quiet) {
      const bool scoring = progress.stage() == v1::ImageProgress::STAGE_SCORING;
      std::fprintf(stderr, "qianyi: %s\n", scoring ? "comparing the pictures" : "magnifying");
    }
    stage = progress.stage();
  }
  const absl::Status status = connection.Explain(stream->Finish());
  if (!status.ok()) return status;
  return finished;
}

absl::StatusOr<v1::FinishedImages> Ask(const ClientPaintFlags& flags,
                                       const Connection& connection) {
  const absl::StatusOr<v1::GenerateImageRequest> request = MakeRequest(flags);
  if (!request.ok()) return request.status();
  const auto stub = connection.NewStub();
  grpc::ClientContext context;
  connection.Prepare(&context);
  if (flags.image.empty()) {
    const auto stream = stub->GenerateImage(&context, *request);
    return Follow(connection, flags.quiet, stream.get());
  }
  const absl::StatusOr<v1::EditImageRequest> edit = MakeEdit(flags, *request);
  if (!edit.ok()) return edit.status();
  const auto stream = stub->EditImage(&context, *edit);
  return Follow(connection, flags.quiet, stream.get());
}

absl::Status RunClientPaint(const ClientPaintFlags& flags) {
  if (flags.image.empty() && !flags.mask.empty()) {
    return absl::InvalidArgumentError("--mask is of a picture that changes; give it as --image");
  }
  const absl::StatusOr<Connection> connection = Connection::Open(flags.server);
  if (!connection.ok()) return connection.status();
  const absl::StatusOr<v1::FinishedImages> finished = Ask(flags, *connection);
  if (!finished.ok()) return finished.status();
  for (int i = 0; i < finished->images_size(); ++i) {
    const v1::FinishedImage& image = finished->images(i);
    const std::string path = flags.output.PathOf(i, flags.pictures);
    if (absl::Status status = WritePicture(path, image.image()); !status.ok()) return status;
    std::printf("%s", path.c_str());
    if (image.has_score()) std::printf("\t%.6f", image.score());
    std::printf("\n");
  }
  if (!flags.quiet) {
    std::fprintf(stderr, "%s, seed %lld\n", finished->size().c_str(),
                 static_cast<long long>(finished->seed()));
  }
  return absl::OkStatus();
}

}  // namespace

void AddClientPaint(CLI::App& client, Run* run) {
  auto flags = std::make_shared<ClientPaintFlags>();
  CLI::App* command = client.add_subcommand("paint", "pictures from words");
  command->add_option("TEXT", flags->text, "what to paint")->required();
  flags->server.Add(*command);
  command->add_option("--model", flags->model, "one that paints [the only one]")->type_name("NAME");
  command->add_option("--style", flags->style, "one of the styles that the model has");
  command->add_option("--size", flags->size,
                      "one of the sizes that the model has, as 64x64 [auto]");
  command->add_option("--n", flags->pictures, "pictures to keep")
      ->check(CLI::Range(1, 128))
      ->capture_default_str();
  command
      ->add_option("--candidates", flags->candidates,
                   "pictures to paint, of which the best are kept [as many as --n]")
      ->check(CLI::Range(1, 128));
  command->add_option("--image", flags->image, "a picture to be changed")->type_name("FILE");
  command
      ->add_option("--mask", flags->mask,
                   "what is transparent in it is painted anew [in the picture itself]")
      ->type_name("FILE");
  flags->output.Add(*command);
  command->add_option("--top-k", flags->top_k, "[the model's]")->check(CLI::Range(0, 1 << 24));
  command->add_option("--temperature", flags->temperature, "0 to 2 [the model's]")
      ->check(CLI::Range(0.0, 2.0));
  command
      ->add_option("--seed", flags->seed, "candidate i is drawn with seed + i [another each time]")
      ->check(CLI::NonNegativeNumber);
  command->add_flag("--scores", flags->scores, "print log p(text | picture) behind each");
  command->add_flag("--quiet", flags->quiet, "no progress");
  command->footer(
      "Prints the path of each picture.\n"
      "Example:\n  qianyi client paint 一只猫 --style 轮廓画 --candidates 8 --output cat.png");
  command->callback([=] { *run = [=] { return RunClientPaint(*flags); }; });
}

}  // namespace qianyi
