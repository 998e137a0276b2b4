#include "runtime/storage/reader.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "absl/strings/str_format.h"
#include "runtime/storage/file_util.h"
#include "runtime/storage/model_file.h"
#include "runtime/storage/reader_parts.h"

namespace qianyi {
namespace {

constexpr int kMaxDepth = 256;

}  // namespace

absl::Status CheckRequest(const ReadRequest& request, uint64_t file_bytes,
                          const std::string& path) {
  const bool aligned = request.offset % kPageBytes == 0 && request.bytes % kPageBytes == 0 &&
                       reinterpret_cast<uintptr_t>(request.to) % kPageBytes == 0;
  const uint64_t covered = (file_bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
  if (aligned && request.bytes > 0 && request.offset < file_bytes &&
      request.bytes <= covered - request.offset) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrFormat("%s: a read of %d bytes at %d is not page-aligned or not inside the file's "
                      "%d bytes",
                      path, request.bytes, request.offset, file_bytes));
}

ReadProgress::ReadProgress(const ReadRequest& request, uint64_t file_bytes)
    : request_(request), wanted_(std::min(request.bytes, file_bytes - request.offset)) {}

std::optional<ReadCompletion> ReadProgress::Advance(int64_t result, const std::string& path) {
  if (result == -EINTR || result == -EAGAIN) return std::nullopt;
  if (result < 0) {
    const int error = static_cast<int>(-result);
    const std::string message = absl::StrFormat("%s: cannot read %d bytes at %d: %s", path, bytes(),
                                                offset(), std::strerror(error));
    return ReadCompletion{
        request_.cookie, done_,
        error == EIO ? absl::DataLossError(message) : absl::UnavailableError(message)};
  }
  const uint64_t got = done_ + static_cast<uint64_t>(result);
  if (got >= wanted_) return ReadCompletion{request_.cookie, wanted_, absl::OkStatus()};
  // Direct reads go on at whole pages only. Not even one more means that the file ends here.
  const uint64_t whole = got / kPageBytes * kPageBytes;
  if (whole == done_) {
    return ReadCompletion{
        request_.cookie, done_,
        absl::DataLossError(absl::StrFormat(
            "%s: ends at byte %d, but had bytes up to %d when it was opened: did something "
            "change it?",
            path, request_.offset + got, request_.offset + wanted_))};
  }
  done_ = whole;
  return std::nullopt;
}

absl::Status ProbeReader(Reader& reader) {
  if (reader.size() == 0) return absl::OkStatus();
  PageBuffer page = AllocatePages(kPageBytes);
  if (page == nullptr) return absl::ResourceExhaustedError("no memory for one page");
  const absl::Status submitted = reader.Submit({0, kPageBytes, page.get(), 0});
  return submitted.ok() ? reader.Wait().status : submitted;
}

absl::Status BlockingReader::Submit(const ReadRequest& request) {
  const absl::Status status = CheckRequest(request, size_, path_);
  if (!status.ok()) return status;
  if (static_cast<int>(queue_.size()) == depth_) {
    return absl::FailedPreconditionError(
        absl::StrFormat("%s: %d reads are under way already", path_, depth_));
  }
  Announce(request);
  queue_.push_back(request);
  return absl::OkStatus();
}

ReadCompletion BlockingReader::Wait() {
  if (queue_.empty()) {
    return {0, 0,
            absl::FailedPreconditionError(
                absl::StrFormat("%s: waited for a read, but none is under way", path_))};
  }
  const ReadRequest request = queue_.front();
  queue_.erase(queue_.begin());
  return Read(request);
}

absl::StatusOr<std::unique_ptr<Reader>> OpenReader(const std::string& path, ReaderOptions options) {
  if (options.depth < 1 || options.depth > kMaxDepth) {
    return absl::InvalidArgumentError(
        absl::StrFormat("a reader's depth must be 1 to %d, not %d", kMaxDepth, options.depth));
  }
  // Errors that are about the file rather than the way of reading are found here once.
  const absl::StatusOr<UniqueFd> file = OpenForReading(path);
  if (!file.ok()) return file.status();
  if (options.kind != ReaderKind::kPread) {
    absl::StatusOr<std::unique_ptr<Reader>> reader = OpenUringReader(path, options.depth);
    if (reader.ok() || options.kind == ReaderKind::kUring) return reader;
  }
  return OpenPreadReader(path, options.depth);
}

}  // namespace qianyi
