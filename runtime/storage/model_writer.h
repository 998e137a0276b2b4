// Writes a folder in streaming layout: all of it, or nothing under the name asked for.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/storage/file_util.h"
#include "runtime/storage/model_file.h"
#include "runtime/storage/progress.h"
#include "runtime/storage/write_journal.h"

namespace qianyi {

// Files beside the weights.
struct SideFiles {
  std::string folder = {};                        // its tokenizer files are copied; "" = none
  std::map<std::string, std::string> texts = {};  // name -> content; these replace what is copied
};

class ModelWriter {
 public:
  // `model` comes from LayOut or ModelFile::Lay; its spec.config_json becomes config.json. Makes a
  // hidden folder beside `destination` and reserves the space there. AlreadyExists when the
  // destination has something in it, ResourceExhausted when the space is not there.
  //
  // `work` says from what the weights are made. When a writer of the same work on the same model
  // was cut off, this one goes on from there. "": nothing can be gone on with.
  static absl::StatusOr<std::unique_ptr<ModelWriter>> Create(ModelFile model,
                                                             const std::string& destination,
                                                             const SideFiles& side_files,
                                                             std::string_view work = {});
  // Removes whatever was written, unless Finish succeeded.
  ~ModelWriter();
  ModelWriter(const ModelWriter&) = delete;
  ModelWriter& operator=(const ModelWriter&) = delete;

  const ModelFile& model() const { return model_; }
  // Blocks that an earlier writer of the same work left behind.
  size_t earlier_blocks() const { return journal_ ? journal_->earlier().size() : 0; }

  // Writes one block (its exact bytes) and notes its checksum. Thread-safe for distinct
  // blocks; every block once. Any order works, the file's own is the fastest.
  absl::Status Write(int tensor, int block, const std::byte* data);

  // True when an earlier writer wrote the block, and it is in order: then Write is not needed.
  // Reads it into `scratch`, which has room for it. Thread-safe for distinct blocks.
  bool WasWritten(int tensor, int block, std::byte* scratch);

  // After all blocks: writes the header, makes everything durable and renames the folder.
  absl::Status Finish();

 private:
  ModelWriter(ModelFile model, std::string destination);
  absl::Status MakeFolder();
  absl::Status OpenJournal(std::string_view work);
  absl::Status CheckRoom(uint64_t side_bytes) const;
  absl::Status Reserve();
  absl::Status WriteSideFiles(const SideFiles& side_files);
  absl::Status Publish();
  // Adds what the user needs to know when the disk was the reason.
  absl::Status Explain(const absl::Status& status) const;

  ModelFile model_;
  const std::string destination_;  // absolute, no trailing slash
  std::string partial_;            // the hidden folder; empty once renamed
  std::string file_path_;
  UniqueFd file_;
  std::optional<WriteJournal> journal_;
  std::atomic<uint64_t> blocks_written_ = 0;
};

// Fills one block: `out` is page-aligned and takes the block's bytes, not cleared.
using FillBlock = std::function<absl::Status(int tensor, int block, std::byte* out)>;

// Fills and writes all blocks on `threads` threads, each with one block in hand, and
// finishes. The first error stops all.
absl::Status WriteModel(ModelWriter& writer, int threads, const FillBlock& fill,
                        const ProgressFn& progress);

}  // namespace qianyi
