// What `qianyi paint`, `qianyi caption` and `qianyi client paint` share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cli/command.h"
#include "runtime/pictures/picture.h"
#include "runtime/pictures/picture_file.h"
#include "server/picture_models.h"

namespace qianyi {

// A picture model, and others that score and magnify for it, within one budget.
struct PictureModelFlags {
  ModelFlags model;
  std::string caption_folder, magnify_folder;
  RunFlags run;

  void Add(CLI::App& command);
};

// The model itself first. `batch`: pictures in progress at once.
absl::StatusOr<std::vector<std::unique_ptr<ServedModel>>> OpenPictureModels(
    const PictureModelFlags& flags, int64_t batch);
// Errors name the file.
absl::StatusOr<Picture> ReadPicture(const std::string& path);

// Where pictures go, and in which format.
struct OutputFlags {
  std::string path = "picture.png";
  std::string format;

  void Add(CLI::App& command);
  // By the flag, or else by the name of the file.
  absl::StatusOr<PictureFormat> Format() const;
  // "picture.png" is "picture-2.png" for the second of several.
  std::string PathOf(size_t index, int64_t pictures) const;
};

absl::Status WritePicture(const std::string& path, const std::string& bytes);

// A line on standard error for each tenth of a picture; on a terminal one line, redrawn.
class PaintingProgress {
 public:
  explicit PaintingProgress(bool quiet) : quiet_(quiet) {}
  void Show(int64_t done, int64_t total);

 private:
  const bool quiet_;
  int64_t shown_ = -1;  // tenths
};

}  // namespace qianyi
