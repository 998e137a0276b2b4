// Writes a folder in streaming layout: all of it, or nothing under the name asked for.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/storage/file_util.h"
#include "runtime/storage/model_file.h"
#include "runtime/storage/progress.h"

namespace qianyi {

class ModelWriter {
 public:
  // `model` comes from LayOut or ModelFile::Lay; its spec.config_json becomes config.json.
  // Tokenizer files of `side_files_folder` are copied along ("" = none). Makes a hidden
  // folder beside `destination` and reserves the space there. AlreadyExists when the
  // destination has something in it, ResourceExhausted when the space is not there.
  static absl::StatusOr<std::unique_ptr<ModelWriter>> Create(ModelFile model,
                                                             const std::string& destination,
                                                             const std::string& side_files_folder);
  // Removes whatever was written, unless Finish succeeded.
  ~ModelWriter();
  ModelWriter(const ModelWriter&) = delete;
  ModelWriter& operator=(const ModelWriter&) = delete;

  const ModelFile& model() const { return model_; }

  // Writes one block (its exact bytes) and notes its checksum. Thread-safe for distinct
  // blocks; every block once. Any order works, the file's own is the fastest.
  absl::Status Write(int tensor, int block, const std::byte* data);

  // After all blocks: writes the header, makes everything durable and renames the folder.
  absl::Status Finish();

 private:
  ModelWriter(ModelFile model, std::string destination);
  absl::Status MakeFolder();
  absl::Status Reserve(uint64_t side_bytes);
  absl::Status CopySideFiles(const std::string& folder);
  absl::Status Publish();
  // Adds what the user needs to know when the disk was the reason.
  absl::Status Explain(const absl::Status& status) const;

  ModelFile model_;
  const std::string destination_;  // absolute, no trailing slash
  std::string partial_;            // the hidden folder; empty once renamed
  std::string file_path_;
  UniqueFd file_;
  std::atomic<uint64_t> blocks_written_ = 0;
};

// Fills one block: `out` is page-aligned and takes the block's bytes, not cleared.
using FillBlock = std::function<absl::Status(int tensor, int block, std::byte* out)>;

// Fills and writes all blocks on `threads` threads, each with one block in hand, and
// finishes. The first error stops all.
absl::Status WriteModel(ModelWriter& writer, int threads, const FillBlock& fill,
                        const ProgressFn& progress);

}  // namespace qianyi
