#include "cli/pictures.h"

#include <utility>

#include "absl/strings/str_cat.h"
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

}  // namespace qianyi
