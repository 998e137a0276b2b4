// Pages of a key-value cache that are kept on disk, in a file that has no name and is gone with the
// process: what users wrote is nobody else's to read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace qianyi {

// One thread. Allocates when it is made; reads and writes wait for the disk.
class PageFile {
 public:
  // In `folder`, of `bytes` at most, for pages of `page_bytes`. Errors name the folder, or the
  // least number of bytes that makes sense.
  static absl::StatusOr<std::unique_ptr<PageFile>> Create(const std::string& folder, uint64_t bytes,
                                                          size_t page_bytes);
  // What those who use it keep in memory of so many bytes on disk, at most.
  static uint64_t IndexBytes(uint64_t bytes, size_t page_bytes) { return bytes / page_bytes * 400; }
  ~PageFile();
  PageFile(const PageFile&) = delete;
  PageFile& operator=(const PageFile&) = delete;

  // What the next Write writes, or the last Read has read: one page.
  std::span<std::byte> page() { return {buffer_, page_bytes_}; }
  bool full() const { return free_.empty(); }
  int64_t used() const { return places_ - static_cast<int64_t>(free_.size()); }
  // Its place; -1 when the disk did not take it, or there is none left.
  int32_t Write();
  // False when it cannot be read, or is not what was written.
  bool Read(int32_t place);
  void Free(int32_t place) { free_.push_back(place); }

 private:
  PageFile(int descriptor, int64_t places, size_t page_bytes);

  const int descriptor_;
  const int64_t places_;
  const size_t page_bytes_;
  const size_t stored_bytes_;  // whole blocks of the disk
  std::byte* const buffer_;
  std::vector<int32_t> free_;
  std::vector<uint64_t> checksums_;  // by place
};

}  // namespace qianyi
