// What readers share: how those of real files are made, what a read's result means, the queue of
// those that read when waited for.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/storage/reader.h"

namespace qianyi {

// io_uring with O_DIRECT; Unavailable when the kernel, a sandbox or the file system
// refuses either. `path` must be a regular file.
absl::StatusOr<std::unique_ptr<Reader>> OpenUringReader(const std::string& path, int depth);
// pread with O_DIRECT, or through the page cache where the file system refuses it.
absl::StatusOr<std::unique_ptr<Reader>> OpenPreadReader(const std::string& path, int depth);

// Reads the first page, so that what only shows when reading shows before it matters.
absl::Status ProbeReader(Reader& reader);

// InvalidArgument unless offset, bytes and address are page-aligned and the range begins
// inside the file and passes its end by less than a page.
absl::Status CheckRequest(const ReadRequest& request, uint64_t file_bytes, const std::string& path);

// A request on its way through reads that may each deliver a part.
class ReadProgress {
 public:
  ReadProgress() = default;
  ReadProgress(const ReadRequest& request, uint64_t file_bytes);

  uint64_t offset() const { return request_.offset + done_; }
  uint64_t bytes() const { return std::min(request_.bytes - done_, kMaxReadBytes); }
  std::byte* to() const { return request_.to + done_; }

  // Takes a read's result, as pread returns it or a negated errno. A completion when that
  // ends the request; otherwise what is left is to be read again.
  std::optional<ReadCompletion> Advance(int64_t result, const std::string& path);

 private:
  static constexpr uint64_t kMaxReadBytes = 1ull << 30;  // the kernel's limit is just under 2 GiB

  ReadRequest request_;
  uint64_t wanted_ = 0;  // request_.bytes less what lies past the end
  uint64_t done_ = 0;    // multiple of kPageBytes until complete
};

// A reader that does the work in Wait, one request at a time, first come first served.
class BlockingReader : public Reader {
 public:
  uint64_t size() const final { return size_; }
  int depth() const final { return depth_; }
  absl::Status Submit(const ReadRequest& request) final;
  ReadCompletion Wait() final;

 protected:
  BlockingReader(std::string path, uint64_t size, int depth)
      : path_(std::move(path)), size_(size), depth_(depth) {
    queue_.reserve(depth);
  }

  // A request was taken; it will be read later.
  virtual void Announce(const ReadRequest& /*request*/) {}
  virtual ReadCompletion Read(const ReadRequest& request) = 0;

  const std::string path_;
  const uint64_t size_;

 private:
  const int depth_;
  std::vector<ReadRequest> queue_;  // at most depth_
};

}  // namespace qianyi
