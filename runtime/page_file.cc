#include "runtime/page_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "runtime/memory_size.h"
#include "xxhash.h"

namespace qianyi {
namespace {

constexpr size_t kBlockBytes = 4096;
constexpr int64_t kMostPlaces = INT32_MAX;

// Past the system's own cache where the file system can do that: its memory is not in our budget.
int OpenUnnamed(const std::string& folder) {
  for (const int direct : {O_DIRECT, 0}) {
    const int descriptor =
        open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC | direct, S_IRUSR | S_IWUSR);
    if (descriptor >= 0 || errno != EINVAL) return descriptor;
  }
  return -1;
}

// All of it, or false.
template <typename Move, typename Bytes>
bool MoveAll(Move move, int descriptor, Bytes* bytes, size_t size, int64_t offset) {
  for (size_t done = 0; done < size;) {
    const ssize_t moved =
        move(descriptor, bytes + done, size - done, offset + static_cast<int64_t>(done));
    if (moved < 0 && errno == EINTR) continue;
    if (moved <= 0) return false;
    done += static_cast<size_t>(moved);
  }
  return true;
}

}  // namespace

absl::StatusOr<std::unique_ptr<PageFile>> PageFile::Create(const std::string& folder,
                                                           uint64_t bytes, size_t page_bytes) {
  const size_t stored = (page_bytes + kBlockBytes - 1) / kBlockBytes * kBlockBytes;
  if (bytes < stored) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "--prefix-cache-disk %s has no room for one page of keys and values; give at least %s",
        FormatSize(bytes), FormatSize(stored)));
  }
  const int descriptor = OpenUnnamed(folder);
  if (descriptor < 0) {
    return absl::UnavailableError(absl::StrFormat(
        "--prefix-cache-folder %s: no file can be made there: %s", folder, std::strerror(errno)));
  }
  const auto places = static_cast<int64_t>(std::min<uint64_t>(bytes / stored, kMostPlaces));
  std::unique_ptr<PageFile> file(new PageFile(descriptor, places, page_bytes));
  if (file->buffer_ != nullptr) return file;
  return absl::ResourceExhaustedError(
      absl::StrFormat("the system has no %s for a page of the prefix cache; lower --host-memory",
                      FormatSize(stored)));
}

PageFile::PageFile(int descriptor, int64_t places, size_t page_bytes)
    : descriptor_(descriptor),
      places_(places),
      page_bytes_(page_bytes),
      stored_bytes_((page_bytes + kBlockBytes - 1) / kBlockBytes * kBlockBytes),
      buffer_(static_cast<std::byte*>(std::aligned_alloc(kBlockBytes, stored_bytes_))),
      checksums_(static_cast<size_t>(places)) {
  if (buffer_ != nullptr) std::memset(buffer_, 0, stored_bytes_);
  free_.reserve(static_cast<size_t>(places));
  for (int64_t place = places; place-- > 0;) free_.push_back(static_cast<int32_t>(place));
}

PageFile::~PageFile() {
  close(descriptor_);
  std::free(buffer_);
}

int32_t PageFile::Write() {
  if (free_.empty()) return -1;
  const int32_t place = free_.back();
  if (!MoveAll(pwrite, descriptor_, static_cast<const std::byte*>(buffer_), stored_bytes_,
               place * static_cast<int64_t>(stored_bytes_))) {
    return -1;
  }
  free_.pop_back();
  checksums_[static_cast<size_t>(place)] = XXH3_64bits(buffer_, page_bytes_);
  return place;
}

bool PageFile::Read(int32_t place) {
  return MoveAll(pread, descriptor_, buffer_, stored_bytes_,
                 place * static_cast<int64_t>(stored_bytes_)) &&
         XXH3_64bits(buffer_, page_bytes_) == checksums_[static_cast<size_t>(place)];
}

}  // namespace qianyi
