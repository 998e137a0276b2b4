// A checkpoint as others publish it: safetensors, files of torch.save or GGUF, in one file, in
// shards, or one file per rank of model-parallel training.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/checkpoints/gguf.h"
#include "runtime/checkpoints/source_tensor.h"

namespace qianyi {

struct CheckpointFile {
  std::string path;
  std::vector<SourceTensor> tensors = {};
  bool converted = false;         // in streaming layout already
  std::optional<Gguf> gguf = {};  // of a GGUF file; the first of split ones has all their tensors
};

// A tensor in one of the files.
struct TensorPlace {
  const CheckpointFile* file = nullptr;
  const SourceTensor* tensor = nullptr;
};

// Tensors by name over all files. Immutable after Open, so safe to share. Reads no weights.
class Checkpoint {
 public:
  // `path` is a file or a folder. In a folder, the first of these is taken: model.safetensors,
  // model.safetensors.index.json, weights.safetensors, pytorch_model.bin,
  // pytorch_model.bin.index.json, mp_rank_*_model_states.pt there or in the folder that the file
  // `latest` names, the only *.gguf (in one file, or split), *.safetensors, *.bin, *.pt or *.pth.
  // NotFound names a missing file or shard; InvalidArgument what makes no sense.
  static absl::StatusOr<Checkpoint> Open(const std::string& path);

  // Where a tensor lies: one place, or one per rank, in order. Its name may be wrapped there, as in
  // "module.NAME". Empty when there is none. Pointers live as long as this object.
  std::vector<TensorPlace> Find(std::string_view name) const;
  // As they are in the files, sorted.
  std::vector<std::string> names() const;
  const std::vector<CheckpointFile>& files() const { return files_; }
  // The metadata of a GGUF checkpoint; null for others.
  const Gguf* gguf() const {
    return !files_.empty() && files_[0].gguf ? &*files_[0].gguf : nullptr;
  }
  // Files of model-parallel training, each with a part of most tensors; 1 in any other checkpoint.
  int ranks() const { return ranks_; }

 private:
  absl::Status AddFile(const std::string& path);
  absl::Status AddSplits();
  absl::Status AddIndex(const std::string& folder, const std::string& index_path,
                        std::string_view suffix);
  absl::Status AddRanks(const std::string& folder, const std::vector<std::string>& names);
  absl::Status AddOnlyFile(const std::string& folder);
  absl::Status AddFolder(const std::string& folder);
  void Index();

  std::vector<CheckpointFile> files_;
  int ranks_ = 1;
  // Tensor name -> where it is, as indices: they outlive a move of this object.
  std::map<std::string, std::vector<std::pair<int, int>>, std::less<>> places_;
};

// The "weight_map" of model.safetensors.index.json: tensor name -> shard. Shards must be
// plain names of files beside the index that end in `suffix`; anything else is refused.
absl::StatusOr<std::map<std::string, std::string>> ParseShardIndex(
    std::string_view json, const std::string& path, std::string_view suffix = ".safetensors");

}  // namespace qianyi
