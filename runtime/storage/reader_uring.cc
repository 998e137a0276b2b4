// Direct reads through io_uring: https://kernel.dk/io_uring.pdf
#include <fcntl.h>
#include <liburing.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "absl/strings/str_format.h"
#include "runtime/storage/file_util.h"
#include "runtime/storage/reader_parts.h"

namespace qianyi {
namespace {

class UringReader : public Reader {
 public:
  UringReader(std::string path, UniqueFd fd, uint64_t size, int depth)
      : path_(std::move(path)), fd_(std::move(fd)), size_(size), slots_(depth) {
    for (int slot = depth - 1; slot >= 0; --slot) free_slots_.push_back(slot);
  }
  UringReader(const UringReader&) = delete;
  UringReader& operator=(const UringReader&) = delete;

  ~UringReader() override {
    if (!has_ring_) return;
    for (int left = in_flight(); left > 0 && Reap().has_value(); --left) {
    }
    io_uring_queue_exit(&ring_);
  }

  // 0 or a negated errno.
  int Init() {
    const int result = io_uring_queue_init(static_cast<unsigned>(depth()), &ring_, 0);
    has_ring_ = result == 0;
    return result;
  }

  std::string_view name() const override { return "io_uring+O_DIRECT"; }
  uint64_t size() const override { return size_; }
  int depth() const override { return static_cast<int>(slots_.size()); }

  absl::Status Submit(const ReadRequest& request) override {
    const absl::Status status = CheckRequest(request, size_, path_);
    if (!status.ok()) return status;
    if (free_slots_.empty()) {
      return absl::FailedPreconditionError(
          absl::StrFormat("%s: %d reads are under way already", path_, depth()));
    }
    const int slot = free_slots_.back();
    slots_[slot] = ReadProgress(request, size_);
    const int error = Start(slot);
    if (error < 0) {
      return absl::UnavailableError(absl::StrFormat("%s: cannot start a read at %d: %s", path_,
                                                    request.offset, std::strerror(-error)));
    }
    free_slots_.pop_back();
    return absl::OkStatus();
  }

  ReadCompletion Wait() override {
    while (in_flight() > 0) {
      const std::optional<Result> result = Reap();
      if (!result) break;
      int64_t value = result->value;
      while (true) {
        std::optional<ReadCompletion> done = slots_[result->slot].Advance(value, path_);
        if (done) {
          free_slots_.push_back(result->slot);
          return *std::move(done);
        }
        value = Start(result->slot);
        if (value == 0) break;
      }
    }
    return {0, 0,
            absl::FailedPreconditionError(
                absl::StrFormat("%s: waited for a read, but none is under way", path_))};
  }

 private:
  struct Result {
    int slot;
    int value;  // bytes or a negated errno
  };

  int in_flight() const { return depth() - static_cast<int>(free_slots_.size()); }

  // 0 or a negated errno. The submission queue has as many entries as there are slots and
  // every entry is submitted at once, so there is always one.
  int Start(int slot) {
    if (broken_ != 0) return broken_;
    const ReadProgress& read = slots_[slot];
    io_uring_sqe* entry = io_uring_get_sqe(&ring_);
    io_uring_prep_read(entry, fd_.get(), read.to(), static_cast<unsigned>(read.bytes()),
                       read.offset());
    io_uring_sqe_set_data64(entry, static_cast<uint64_t>(slot));
    int submitted;
    do {
      submitted = io_uring_submit(&ring_);
    } while (submitted == -EINTR || submitted == -EAGAIN || submitted == -EBUSY);
    // The entry stays in the queue with a slot that is about to be reused: no more of this ring.
    if (submitted < 0) broken_ = submitted;
    return broken_;
  }

  std::optional<Result> Reap() {
    io_uring_cqe* entry = nullptr;
    int error;
    do {
      error = io_uring_wait_cqe(&ring_, &entry);
    } while (error == -EINTR || error == -EAGAIN);
    if (error < 0) return std::nullopt;
    const Result result{static_cast<int>(io_uring_cqe_get_data64(entry)), entry->res};
    io_uring_cqe_seen(&ring_, entry);
    return result;
  }

  const std::string path_;
  const UniqueFd fd_;
  const uint64_t size_;
  std::vector<ReadProgress> slots_;
  std::vector<int> free_slots_;
  io_uring ring_ = {};
  bool has_ring_ = false;
  int broken_ = 0;  // negated errno of the submission that failed
};

}  // namespace

absl::StatusOr<std::unique_ptr<Reader>> OpenUringReader(const std::string& path, int depth) {
  absl::StatusOr<UniqueFd> fd = OpenForReading(path, O_DIRECT);
  if (!fd.ok()) {
    return absl::UnavailableError(
        absl::StrFormat("%s (direct reads are refused)", fd.status().message()));
  }
  absl::StatusOr<uint64_t> size = FileSize(fd->get(), path);
  if (!size.ok()) return size.status();
  auto reader = std::make_unique<UringReader>(path, *std::move(fd), *size, depth);
  const int error = reader->Init();
  if (error < 0) {
    return absl::UnavailableError(
        absl::StrFormat("%s: io_uring is not to be had here: %s", path, std::strerror(-error)));
  }
  const absl::Status probe = ProbeReader(*reader);
  if (!probe.ok()) {
    return absl::UnavailableError(
        absl::StrFormat("%s (the first direct read through io_uring)", probe.message()));
  }
  return reader;
}

}  // namespace qianyi
