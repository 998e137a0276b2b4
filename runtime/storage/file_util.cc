#include "runtime/storage/file_util.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/backend.h"

namespace qianyi {
namespace {

constexpr uint64_t kAlignment = 4096;

}  // namespace

UniqueFd::~UniqueFd() {
  if (fd_ >= 0) close(fd_);
}

absl::Status FileError(const std::string& path, std::string_view what, int error) {
  return absl::ErrnoToStatus(error, absl::StrFormat("%s: cannot %s", path, what));
}

absl::StatusOr<UniqueFd> OpenForReading(const std::string& path, int extra_flags) {
  // O_NONBLOCK so that a FIFO under a model's name cannot hang us; taken back below because
  // io_uring reads such files without waiting.
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | extra_flags));
  if (!fd) return FileError(path, "open", errno);
  struct stat info;
  if (fstat(fd.get(), &info) != 0) return FileError(path, "stat", errno);
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, S_ISDIR(info.st_mode) ? ": is a folder, not a file" : ": is not a regular file"));
  }
  if (fcntl(fd.get(), F_SETFL, fcntl(fd.get(), F_GETFL) & ~O_NONBLOCK) != 0) {
    return FileError(path, "set flags", errno);
  }
  return fd;
}

absl::StatusOr<uint64_t> FileSize(int fd, const std::string& path) {
  struct stat info;
  if (fstat(fd, &info) != 0) return FileError(path, "stat", errno);
  return static_cast<uint64_t>(info.st_size);
}

absl::Status ReadExactly(int fd, const std::string& path, uint64_t offset,
                         std::span<std::byte> out) {
  size_t done = 0;
  while (done < out.size()) {
    const ssize_t got = pread(fd, out.data() + done, out.size() - done, offset + done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return FileError(path, absl::StrCat("read at byte ", offset + done), errno);
    if (got == 0) {
      return absl::OutOfRangeError(absl::StrCat(path, ": ends at byte ", offset + done,
                                                ", before byte ", offset + out.size(),
                                                " that was to be read"));
    }
    done += static_cast<size_t>(got);
  }
  return absl::OkStatus();
}

absl::Status WriteExactly(int fd, const std::string& path, uint64_t offset,
                          std::span<const std::byte> data) {
  size_t done = 0;
  while (done < data.size()) {
    const ssize_t put = pwrite(fd, data.data() + done, data.size() - done, offset + done);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return FileError(path, absl::StrCat("write at byte ", offset + done), errno);
    done += static_cast<size_t>(put);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadTextFile(const std::string& path, uint64_t limit_bytes) {
  absl::StatusOr<UniqueFd> fd = OpenForReading(path);
  if (!fd.ok()) return fd.status();
  absl::StatusOr<uint64_t> size = FileSize(fd->get(), path);
  if (!size.ok()) return size.status();
  if (*size > limit_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": has ", *size, " bytes, the limit is ", limit_bytes));
  }
  std::string text(*size, '\0');
  absl::Status read = ReadExactly(fd->get(), path, 0, std::as_writable_bytes(std::span(text)));
  if (!read.ok()) return read;
  return text;
}

absl::StatusOr<std::vector<std::string>> ListFolder(const std::string& folder,
                                                    std::string_view suffix) {
  DIR* directory = opendir(folder.c_str());
  if (directory == nullptr) return FileError(folder, "open the folder", errno);
  std::vector<std::string> names;
  errno = 0;
  while (const dirent* entry = readdir(directory)) {
    const std::string_view name = entry->d_name;
    if (name != "." && name != ".." && name.ends_with(suffix)) names.emplace_back(name);
  }
  const int error = errno;
  closedir(directory);
  if (error != 0) return FileError(folder, "list the folder", error);
  std::sort(names.begin(), names.end());
  return names;
}

std::string JoinPath(std::string_view folder, std::string_view name) {
  return absl::StrFormat("%s%s%s", folder, folder.ends_with('/') ? "" : "/", name);
}

PageBuffer AllocatePages(uint64_t bytes) {
  // A direct read into scattered small pages is cut into many pieces, which takes two to five times
  // as long on a virtual disk. Large buffers take huge pages, as the weight store's do, of memory
  // that was not the heap's: what the heap has used before is of small pages, and stays so.
  constexpr uint64_t kHugePage = 2 << 20;
  if (bytes >= kHugePage) {
    return PageBuffer(static_cast<std::byte*>(Cpu().alloc(bytes)), FreePages{bytes});
  }
  const uint64_t rounded = std::max(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
  return PageBuffer(static_cast<std::byte*>(std::aligned_alloc(kAlignment, rounded)));
}

void FreePages::operator()(std::byte* data) const {
  if (mapped_bytes > 0) {
    Cpu().free(data, mapped_bytes);
  } else {
    std::free(data);
  }
}

}  // namespace qianyi
