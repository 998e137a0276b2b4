#include "cli/pictures.h"

#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "runtime/pictures/picture_file.h"
#include "runtime/storage/file_util.h"

namespace qianyi {

void PictureModelFlags::Add(CLI::App& command) {
  model.Add(command, "--synth");
  command
      .add_option("--caption-model", caption_folder, "scores and describes, where --model does not")
      ->type_name("DIR");
  command.add_option("--magnify-model", magnify_folder, "magnifies, where --model does not")
      ->type_name("DIR");
  run.Add(command);
}

absl::StatusOr<std::vector<std::unique_ptr<ServedModel>>> OpenPictureModels(
    const PictureModelFlags& flags, int64_t batch) {
  RunFlags run = flags.run;
  if (absl::Status status = run.Check(); !status.ok()) return status;
  std::vector<NamedModelFile> files;
  absl::StatusOr<ModelFile> first = flags.model.Open();
  if (!first.ok()) return first.status();
  files.push_back({"model", flags.model.folder, *std::move(first)});
  for (const auto& [name, folder] :
       {std::pair("caption", &flags.caption_folder), std::pair("magnify", &flags.magnify_folder)}) {
    if (folder->empty()) continue;
    ModelFlags other;
    other.folder = *folder;
    absl::StatusOr<ModelFile> file = other.Open();
    if (!file.ok()) return file.status();
    files.push_back({name, *folder, *std::move(file)});
  }
  ServeModelOptions options{.load = run.options, .queue = batch};
  options.load.batch = batch;
  return OpenModels(std::move(files), options);
}

absl::StatusOr<Picture> ReadPicture(const std::string& path) {
  const PictureLimits limits;
  absl::StatusOr<std::string> bytes = ReadTextFile(path, limits.file_bytes);
  if (!bytes.ok()) return bytes.status();
  absl::StatusOr<Picture> picture = DecodePicture(*bytes, limits);
  if (picture.ok()) return picture;
  return absl::Status(picture.status().code(),
                      absl::StrCat(path, ": ", picture.status().message()));
}

void OutputFlags::Add(CLI::App& command) {
  command.add_option("--output", path, "several are numbered: picture-1.png, …")
      ->capture_default_str()
      ->type_name("FILE");
  command.add_option("--format", format, "png, jpeg or webp [by the name of --output]");
}

absl::StatusOr<PictureFormat> OutputFlags::Format() const {
  if (!format.empty()) return ParsePictureFormat(format);
  const std::string extension = std::filesystem::path(path).extension().string();
  absl::StatusOr<PictureFormat> named =
      ParsePictureFormat(extension.empty() ? "png" : extension.substr(1));
  if (named.ok()) return named;
  return absl::InvalidArgumentError(
      absl::StrFormat("--output %s: it must end in .png, .jpg or .webp, or say --format", path));
}

std::string OutputFlags::PathOf(size_t index, int64_t pictures) const {
  if (pictures == 1) return path;
  const std::filesystem::path whole(path);
  return (whole.parent_path() /
          absl::StrCat(whole.stem().string(), "-", index + 1, whole.extension().string()))
      .string();
}

absl::Status WritePicture(const std::string& path, const std::string& bytes) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  file.close();
  if (file) return absl::OkStatus();
  return absl::UnavailableError(absl::StrFormat("--output: cannot write %s", path));
}

void PaintingProgress::Show(int64_t done, int64_t total) {
  if (quiet_ || total <= 0) return;
  if (isatty(STDERR_FILENO) != 0) {
    std::fprintf(stderr, "\rqianyi: painting: %3d%%%s", static_cast<int>(done * 100 / total),
                 done >= total ? "\n" : "");
    return;
  }
  const int64_t tenth = done * 10 / total;
  if (tenth == shown_) return;
  shown_ = tenth;
  std::fprintf(stderr, "qianyi: painting: %d%%\n", static_cast<int>(tenth * 10));
}

}  // namespace qianyi
