// What `qianyi paint` and `qianyi caption` share.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "cli/command.h"
#include "runtime/pictures/picture.h"
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

}  // namespace qianyi
