// What replays of model fixtures share.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "runtime/loaded_model.h"

namespace qianyi {

// A folder of our own that is gone when we are; its path is empty when it could not be made.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::string& path() const { return path_; }
  // Says what to do when there is none.
  absl::Status status() const;

 private:
  std::string path_;
};

// A JSON object from a file.
absl::StatusOr<nlohmann::json> ReadJson(const std::string& path);

// Room for the longest of `cases`, and for logits of all its tokens.
absl::StatusOr<LoadOptions> RoomFor(const nlohmann::json& cases);

}  // namespace qianyi
