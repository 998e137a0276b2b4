// What replays of model fixtures share.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/tensor.h"
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

// A list of ids; `name` is for the message.
absl::StatusOr<std::vector<int32_t>> ReadIds(const nlohmann::json& list, const std::string& name);

// Whole numbers of a possibly nested list, or of one number; others become "no such number".
std::vector<int64_t> Flatten(const nlohmann::json& value);

// Null when there is none.
nlohmann::json FieldOf(const nlohmann::json& object, const char* key);

template <typename T>
std::vector<int64_t> Wide(const std::vector<T>& values) {
  return {values.begin(), values.end()};
}

// Infinity where they are not of as many values, or one is no number.
double LargestDifference(const std::vector<float>& a, const std::vector<float>& b);

// All values of the rows, one after the other.
void Append(const Tensor& rows, std::vector<float>* out);

}  // namespace qianyi
