// The rows of one tensor of a model, wherever and however a checkpoint has them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/model_spec.h"
#include "runtime/models/sources.h"
#include "runtime/storage/checkpoint.h"
#include "runtime/storage/checkpoint_tensor.h"

namespace qianyi {

// Immutable; reading is thread-safe. Refers to the checkpoint.
class SourceRows {
 public:
  // NotFound when the checkpoint lacks the tensor; InvalidArgument, naming file, tensor, shapes and
  // dtypes, when it does not fit.
  static absl::StatusOr<SourceRows> Find(const Checkpoint& checkpoint, const TensorSpec& spec,
                                         const TensorSources& sources = {});

  // Bits of the integers that the checkpoint holds, with one scale for each row in NAME_scale; 0:
  // floats. GLM-130B and ChatGLM-6B were published so: int8 [rows, cols], or int4 [rows, cols / 2],
  // the even column in the high bits.
  int integer_bits() const { return scales_per_row_ == 1 ? bits_ : 0; }
  // "F16", "I8", "I4", …
  std::string dtype() const;
  const std::string& path() const { return weight_->path(); }
  // As the files call what it is made of.
  std::vector<std::string> source_names() const;
  int64_t cols() const { return cols_; }

  // Rows [first, first + count) in our order as f32, out [count, cols].
  absl::Status ReadFloats(int64_t first, int64_t count, float* out) const;
  // The same of integers: value = out * scales of its row. InvalidArgument for -128.
  absl::Status ReadIntegers(int64_t first, int64_t count, int8_t* out, float* scales) const;

 private:
  SourceRows(const TensorSpec& spec, int64_t cols) : spec_(spec), cols_(cols) {}
  absl::Status FindScale(const Checkpoint& checkpoint, RankSplit split);
  absl::Status ReadSlice(int64_t first, int64_t count, float* out) const;
  // Calls read(row there, rows, row here) for each run of rows that stand together in both orders.
  template <typename Read>
  absl::Status ForEachRun(int64_t first, int64_t count, Read read) const;

  // The same with every scale, [count, scales_per_row_].
  absl::Status ReadScaled(int64_t first, int64_t count, int8_t* out, float* scales) const;

  TensorSpec spec_;
  int64_t cols_;
  int bits_ = 0;
  // Ranks that were quantized one by one, and cut by columns, have a scale each: then the integers
  // of a row are of no use together, and integer_bits() is 0.
  int64_t scales_per_row_ = 1;
  std::optional<CheckpointTensor> weight_;
  std::optional<CheckpointTensor> scale_;
};

}  // namespace qianyi
