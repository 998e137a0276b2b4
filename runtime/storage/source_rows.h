// The rows of one tensor of a model, wherever and however a checkpoint has them.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/model_spec.h"
#include "runtime/storage/checkpoint.h"

namespace qianyi {

// Immutable; reading is thread-safe. Refers to the checkpoint and the spec.
class SourceRows {
 public:
  // NotFound when the checkpoint lacks the tensor; InvalidArgument, naming file, tensor, shapes and
  // dtypes, when it does not fit.
  static absl::StatusOr<SourceRows> Find(const Checkpoint& checkpoint, const TensorSpec& spec);

  // Bits of the integers that the checkpoint holds, with one scale for each row in NAME_scale; 0:
  // floats. GLM-130B and ChatGLM-6B were published so: int8 [rows, cols], or int4 [rows, cols / 2],
  // the even column in the high bits.
  int integer_bits() const { return bits_; }
  // As the checkpoint calls what it is made of.
  const std::string& name() const { return weight_.entry->name; }
  // "F16", "I8", "I4", …
  std::string dtype() const;
  const std::string& path() const { return weight_.file->path(); }
  int64_t cols() const { return cols_; }

  // Rows [first, first + count) in our order as f32, out [count, cols].
  absl::Status ReadFloats(int64_t first, int64_t count, float* out) const;
  // The same of integers: value = out * scales of its row. InvalidArgument for -128.
  absl::Status ReadIntegers(int64_t first, int64_t count, int8_t* out, float* scales) const;

 private:
  SourceRows(const TensorSpec& spec, int64_t cols) : spec_(&spec), cols_(cols) {}
  absl::Status FindScale(const Checkpoint& checkpoint);
  absl::Status ReadSlice(int64_t first, int64_t count, float* out) const;
  // Calls read(row there, rows, row here) for each run of rows that stand together in both orders.
  template <typename Read>
  absl::Status ForEachRun(int64_t first, int64_t count, Read read) const;

  const TensorSpec* spec_;
  int64_t cols_;
  int bits_ = 0;
  CheckpointTensor weight_;
  CheckpointTensor scale_;
};

}  // namespace qianyi
