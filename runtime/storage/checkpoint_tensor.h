// One tensor of a model, put together from where a checkpoint has its parts.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/checkpoints/source_tensor.h"
#include "runtime/model_spec.h"
#include "runtime/models/sources.h"
#include "runtime/storage/checkpoint.h"

namespace qianyi {

// All of a tensor [rows, columns] as pieces of stored tensors, each a run of rows there. Immutable;
// reading is thread-safe. Refers to the checkpoint's files.
class CheckpointTensor {
 public:
  // Looks for the tensor under its own name, then for each of `sources.others` in turn; merges the
  // ranks of a model-parallel checkpoint. NotFound when it is nowhere; InvalidArgument, naming
  // file, tensor and shapes, when what is there does not fit.
  static absl::StatusOr<CheckpointTensor> Find(const Checkpoint& checkpoint, const TensorSpec& spec,
                                               const TensorSources& sources = {});

  // Of every piece: "F16", "I8", "Q4_K", …
  const std::string& dtype() const { return pieces_.front().tensor.dtype; }
  // The first piece's, for messages.
  const std::string& path() const { return pieces_.front().file->path; }
  int64_t rows() const { return rows_; }
  int64_t cols() const { return cols_; }
  // As the files call what it is made of.
  std::vector<std::string> source_names() const;

  // Rows [first, first + count) as f32, out [count, cols].
  absl::Status ReadFloats(int64_t first, int64_t count, float* out) const;
  // The same of a dtype of one byte an element, as they are.
  absl::Status ReadBytes(int64_t first, int64_t count, std::byte* out) const;

 private:
  struct Piece {
    const CheckpointFile* file = nullptr;
    SourceTensor tensor;     // as stored, or with its leading dimensions as rows
    int64_t source_row = 0;  // the first that is taken
    int64_t row = 0;         // where it goes
    int64_t rows = 0;
    int64_t col = 0;
  };

  CheckpointTensor(int64_t rows, int64_t cols) : rows_(rows), cols_(cols) {}
  absl::Status AddWhole(const TensorPlace& place, const TensorSpec& spec);
  absl::Status AddRanks(const std::vector<TensorPlace>& ranks, const TensorSpec& spec,
                        RankSplit split);
  absl::Status AddPart(const TensorPlace& place, const SourcePart& part);
  absl::Status Check(const TensorSpec& spec) const;
  template <typename Element, typename Read>
  absl::Status ReadPieces(int64_t first, int64_t count, Element* out, Read read) const;

  int64_t rows_;
  int64_t cols_;
  std::vector<Piece> pieces_;
};

}  // namespace qianyi
