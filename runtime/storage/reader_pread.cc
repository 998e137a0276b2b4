#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include "runtime/storage/file_util.h"
#include "runtime/storage/reader_parts.h"

namespace qianyi {
namespace {

// Reads in Wait, one request at a time. Without O_DIRECT the kernel is told at Submit what
// comes, so it reads ahead, and afterwards that it may forget: the budget for keeping
// weights in memory is the weight store's, not the page cache's.
class PreadReader : public BlockingReader {
 public:
  PreadReader(std::string path, UniqueFd fd, uint64_t size, int depth, bool direct)
      : BlockingReader(std::move(path), size, depth), fd_(std::move(fd)), direct_(direct) {}

  std::string_view name() const override { return direct_ ? "pread+O_DIRECT" : "pread"; }

 private:
  void Announce(const ReadRequest& request) override {
    if (!direct_) Advise(request, POSIX_FADV_WILLNEED);
  }

  ReadCompletion Read(const ReadRequest& request) override {
    ReadProgress read(request, size_);
    while (true) {
      const ssize_t got =
          pread(fd_.get(), read.to(), read.bytes(), static_cast<off_t>(read.offset()));
      std::optional<ReadCompletion> done = read.Advance(got < 0 ? -errno : got, path_);
      if (!done) continue;
      if (!direct_) Advise(request, POSIX_FADV_DONTNEED);
      return *std::move(done);
    }
  }

  void Advise(const ReadRequest& request, int advice) {
    posix_fadvise(fd_.get(), static_cast<off_t>(request.offset), static_cast<off_t>(request.bytes),
                  advice);
  }

  const UniqueFd fd_;
  const bool direct_;
};

absl::StatusOr<std::unique_ptr<Reader>> Open(const std::string& path, int depth, bool direct) {
  absl::StatusOr<UniqueFd> fd = OpenForReading(path, direct ? O_DIRECT : 0);
  if (!fd.ok()) return fd.status();
  absl::StatusOr<uint64_t> size = FileSize(fd->get(), path);
  if (!size.ok()) return size.status();
  auto reader = std::make_unique<PreadReader>(path, *std::move(fd), *size, depth, direct);
  const absl::Status probe = ProbeReader(*reader);
  if (!probe.ok()) return probe;
  return reader;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Reader>> OpenPreadReader(const std::string& path, int depth) {
  absl::StatusOr<std::unique_ptr<Reader>> direct = Open(path, depth, /*direct=*/true);
  if (direct.ok()) return direct;
  return Open(path, depth, /*direct=*/false);
}

}  // namespace qianyi
