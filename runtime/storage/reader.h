// Reads one weight file. The one door to the disk for weights, so tests put a faulty
// one in its place.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace qianyi {

struct ReadRequest {
  uint64_t offset = 0;      // multiple of kPageBytes
  uint64_t bytes = 0;       // multiple of kPageBytes
  std::byte* to = nullptr;  // page aligned
  uint64_t cookie = 0;      // returned with the completion
};

struct ReadCompletion {
  uint64_t cookie = 0;
  uint64_t bytes = 0;   // may be fewer than asked: the caller asks for the rest
  absl::Status status;  // DataLoss / Unavailable with the file, offset and errno
};

// Used by one thread at a time. Requests may complete in any order. A request may reach
// past the end of the file by less than a page, as the last one of a file whose size is no
// multiple of it must; its completion then counts the bytes there are.
class Reader {
 public:
  virtual ~Reader() = default;  // waits for reads under way: they write to their buffers
  virtual std::string_view name() const { return "reader"; }  // for reports, e.g. "pread"
  virtual uint64_t size() const = 0;
  virtual int depth() const = 0;  // requests that may be under way at once
  // Starts a read; at most depth() may be under way.
  virtual absl::Status Submit(const ReadRequest& request) = 0;
  // Waits for one read that was submitted.
  virtual ReadCompletion Wait() = 0;
};

enum class ReaderKind { kAuto, kUring, kPread };

struct ReaderOptions {
  ReaderKind kind = ReaderKind::kAuto;  // io_uring with O_DIRECT, else pread
  int depth = 4;
};
// Fastest with depth 4: docs/performance.md.
inline constexpr uint64_t kReadChunkBytes = 1ull << 20;

// Opens a regular file. NotFound and the like; Unavailable when the kind asked for is not to
// be had here (kAuto never is: it ends at plain reads). Reads of a file that has become
// shorter since it was opened end in DataLoss.
absl::StatusOr<std::unique_ptr<Reader>> OpenReader(const std::string& path, ReaderOptions options);

}  // namespace qianyi
