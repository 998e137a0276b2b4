// POSIX files with errno turned into Status. Nothing here knows a format.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace qianyi {

class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~UniqueFd();

  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

// "PATH: cannot WHAT: No space left on device", with the code that fits the errno.
absl::Status FileError(const std::string& path, std::string_view what, int error);

// Opens a regular file for reading; `extra_flags` such as O_DIRECT. NotFound, or
// InvalidArgument when it is a folder or a device.
absl::StatusOr<UniqueFd> OpenForReading(const std::string& path, int extra_flags = 0);
absl::StatusOr<uint64_t> FileSize(int fd, const std::string& path);

// All of [offset, offset + out.size()); OutOfRange when the file ends before.
absl::Status ReadExactly(int fd, const std::string& path, uint64_t offset,
                         std::span<std::byte> out);
absl::Status WriteExactly(int fd, const std::string& path, uint64_t offset,
                          std::span<const std::byte> data);

// A whole small file; InvalidArgument when it has more than `limit_bytes`.
absl::StatusOr<std::string> ReadTextFile(const std::string& path, uint64_t limit_bytes);

// Names of the folder's entries that end in `suffix`, sorted.
absl::StatusOr<std::vector<std::string>> ListFolder(const std::string& folder,
                                                    std::string_view suffix = {});

std::string JoinPath(std::string_view folder, std::string_view name);

// Page-aligned memory, as O_DIRECT wants it. Null when there is no room.
struct FreePages {
  uint64_t mapped_bytes = 0;  // 0: of the heap
  void operator()(std::byte* data) const;
};
using PageBuffer = std::unique_ptr<std::byte[], FreePages>;
PageBuffer AllocatePages(uint64_t bytes);

}  // namespace qianyi
