#include "runtime/checkpoints/byte_source.h"

#include <cstring>

#include "absl/strings/str_format.h"

namespace qianyi {

absl::StatusOr<std::string> ByteSource::ReadText(uint64_t offset, uint64_t count) const {
  if (offset > bytes() || count > bytes() - offset) {
    return absl::OutOfRangeError(absl::StrFormat("bytes %d to %d + %d are not there: it has %d",
                                                 offset, offset, count, bytes()));
  }
  std::string text(count, '\0');
  const absl::Status status = Read(offset, std::as_writable_bytes(std::span(text)));
  if (!status.ok()) return status;
  return text;
}

absl::StatusOr<FileBytes> FileBytes::Open(const std::string& path) {
  FileBytes file;
  file.path_ = path;
  absl::StatusOr<UniqueFd> fd = OpenForReading(path);
  if (!fd.ok()) return fd.status();
  file.fd_ = *std::move(fd);
  absl::StatusOr<uint64_t> bytes = FileSize(file.fd_.get(), path);
  if (!bytes.ok()) return bytes.status();
  file.bytes_ = *bytes;
  return file;
}

absl::Status FileBytes::Read(uint64_t offset, std::span<std::byte> out) const {
  return ReadExactly(fd_.get(), path_, offset, out);
}

absl::Status MemoryBytes::Read(uint64_t offset, std::span<std::byte> out) const {
  if (offset > text_.size() || out.size() > text_.size() - offset) {
    return absl::OutOfRangeError("the file ends before");
  }
  if (!out.empty()) std::memcpy(out.data(), text_.data() + offset, out.size());
  return absl::OkStatus();
}

}  // namespace qianyi
