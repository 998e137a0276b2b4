// The safetensors container: a JSON header and raw little-endian tensors. Reads any
// file of the format and trusts none: every size is checked before it is used.
// https://github.com/huggingface/safetensors#format
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace qianyi {

struct SafetensorsEntry {
  std::string name;
  std::string dtype;           // "F32", "F16", "BF16", "I8", "U8", "I32", "I64", …
  std::vector<int64_t> shape;  // empty for a scalar
  uint64_t begin = 0;          // absolute offsets in the file
  uint64_t end = 0;

  int64_t elements() const;  // product of the shape: 1 for a scalar
};

// A file's table of contents. Immutable after Open, so safe to share.
class Safetensors {
 public:
  // Reads and checks the header only. Errors name the file and what is wrong in it:
  // NotFound, InvalidArgument (not the format), OutOfRange (truncated, overlapping).
  static absl::StatusOr<Safetensors> Open(const std::string& path);
  // The same on the file's first bytes, already in memory: the length, the JSON header
  // and possibly more. `file_bytes` is the whole file's size.
  static absl::StatusOr<Safetensors> Parse(std::string_view head, uint64_t file_bytes,
                                           const std::string& path);

  const std::string& path() const { return path_; }
  uint64_t file_bytes() const { return file_bytes_; }
  const std::vector<SafetensorsEntry>& entries() const { return entries_; }  // by offset
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const SafetensorsEntry* Find(std::string_view name) const;  // null when absent

  // Reads elements [first, first + count) of a float tensor (F32, F16, BF16) as f32, or
  // of an integer tensor (I32, I64, U8, I8, BOOL) as int64. Plain buffered reads.
  absl::Status ReadFloats(const SafetensorsEntry& entry, int64_t first, int64_t count,
                          float* out) const;
  absl::StatusOr<std::vector<float>> ReadFloats(std::string_view name) const;
  // The same of a dtype of one byte an element, as they are.
  absl::Status ReadBytes(const SafetensorsEntry& entry, int64_t first, int64_t count,
                         std::byte* out) const;
  absl::StatusOr<std::vector<int64_t>> ReadIntegers(std::string_view name) const;

 private:
  std::string path_;
  uint64_t file_bytes_ = 0;
  std::vector<SafetensorsEntry> entries_;
  std::vector<uint32_t> by_name_;  // indices into entries_, sorted by name
  std::map<std::string, std::string> metadata_;
};

// Bits per element of a safetensors dtype, 0 when the format has no such dtype.
int SafetensorsBits(std::string_view dtype);

}  // namespace qianyi
