// A tensor as somebody's file holds it, whatever the format of the file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"

namespace qianyi {

struct SourceTensor {
  std::string name;
  std::string dtype = {};             // as safetensors calls it, or a block format of GGUF: "Q4_K"
  std::vector<int64_t> shape = {};    // outermost first; empty for a scalar
  std::vector<int64_t> strides = {};  // in elements; empty when row-major without gaps
  uint64_t begin = 0;                 // byte of the first element in the file

  int64_t elements() const;  // product of the shape: 1 for a scalar
  int64_t rows() const { return shape.empty() ? 1 : shape[0]; }
  int64_t row_elements() const { return rows() == 0 ? 0 : elements() / rows(); }
};

// How a dtype lies in memory: blocks of elements, a single one but for GGUF's quantized formats.
struct ElementType {
  std::string_view name;
  int block_elements = 1;
  int block_bytes = 0;
  // Null for what is no weight. `elements` is a multiple of block_elements.
  void (*to_floats)(const std::byte* from, int64_t elements, float* to) = nullptr;
};
// Null when there is no such dtype.
const ElementType* FindElementType(std::string_view dtype);
// "F32, F16, …": what weights are read from.
std::string FloatDtypes();

// That the shape and the strides make sense and that every element lies within the file; rows of
// block formats must be whole blocks. What it says begins with a verb: the caller names the tensor.
absl::Status CheckPlace(const SourceTensor& tensor, uint64_t file_bytes);

// Rows [first, first + count) of a tensor that CheckPlace found in order, in row-major order; a
// row is one index of the first dimension. Plain buffered reads of `path`, `count` rows of
// elements in memory at most. Thread-safe.
absl::Status ReadFloatRows(const std::string& path, const SourceTensor& tensor, int64_t first,
                           int64_t count, float* out);
// The same without conversion: `out` takes the elements' own bytes. No block formats.
absl::Status ReadRawRows(const std::string& path, const SourceTensor& tensor, int64_t first,
                         int64_t count, std::byte* out);

}  // namespace qianyi
