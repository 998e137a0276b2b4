// Bytes at offsets, from a file or from memory, for parsers of files that are mostly weights.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/storage/file_util.h"

namespace qianyi {

class ByteSource {
 public:
  virtual ~ByteSource() = default;
  virtual uint64_t bytes() const = 0;
  // All of [offset, offset + out.size()); OutOfRange when the source ends before.
  virtual absl::Status Read(uint64_t offset, std::span<std::byte> out) const = 0;

  absl::StatusOr<std::string> ReadText(uint64_t offset, uint64_t count) const;
};

class FileBytes : public ByteSource {
 public:
  static absl::StatusOr<FileBytes> Open(const std::string& path);
  uint64_t bytes() const override { return bytes_; }
  absl::Status Read(uint64_t offset, std::span<std::byte> out) const override;

 private:
  std::string path_;
  UniqueFd fd_;
  uint64_t bytes_ = 0;
};

// Does not own the text.
class MemoryBytes : public ByteSource {
 public:
  explicit MemoryBytes(std::string_view text) : text_(text) {}
  uint64_t bytes() const override { return text_.size(); }
  absl::Status Read(uint64_t offset, std::span<std::byte> out) const override;

 private:
  std::string_view text_;
};

}  // namespace qianyi
