// A checkpoint as others publish it: one safetensors file, or several and an index.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/storage/safetensors.h"

namespace qianyi {

struct CheckpointTensor {
  const Safetensors* file = nullptr;
  const SafetensorsEntry* entry = nullptr;
};

// Tensors by name over all shards. Immutable after Open, so safe to share.
class Checkpoint {
 public:
  // `path` is one .safetensors file or a folder. In a folder, the first of these is taken:
  // model.safetensors, model.safetensors.index.json with its shards, weights.safetensors,
  // the only *.safetensors. NotFound names a missing file or shard; InvalidArgument an
  // index or header that makes no sense.
  static absl::StatusOr<Checkpoint> Open(const std::string& path);

  // Null members when there is no such tensor. Pointers live as long as this object.
  CheckpointTensor Find(std::string_view name) const;
  // Sorted.
  std::vector<std::string> names() const;
  const std::vector<Safetensors>& files() const { return files_; }

 private:
  absl::Status AddFile(const std::string& path);
  absl::Status AddIndex(const std::string& folder, const std::string& index_path);

  std::vector<Safetensors> files_;
  std::map<std::string, int, std::less<>> file_of_;  // tensor name -> index into files_
};

// The "weight_map" of model.safetensors.index.json: tensor name -> shard. Shards must be
// plain names of .safetensors files beside the index; anything else is refused.
absl::StatusOr<std::map<std::string, std::string>> ParseShardIndex(std::string_view json,
                                                                   const std::string& path);

}  // namespace qianyi
