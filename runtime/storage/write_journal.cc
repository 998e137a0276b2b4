#include "runtime/storage/write_journal.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_format.h"
#include "xxhash.h"

namespace qianyi {
namespace {

constexpr uint64_t kMaxJournalBytes = 1ull << 30;

struct Record {
  uint32_t tensor, block;
  uint64_t checksum;
};

}  // namespace

absl::StatusOr<WriteJournal> WriteJournal::Open(const std::string& path, std::string_view work) {
  UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666));
  if (!fd) return FileError(path, "open", errno);
  if (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    return absl::AlreadyExistsError(
        absl::StrFormat("%s: another process is writing this model; wait for it, or end it", path));
  }
  const XXH128_hash_t hash = XXH3_128bits(work.data(), work.size());
  WriteJournal journal(path, std::move(fd),
                       absl::StrFormat("qianyi 1 %016x%016x\n", hash.high64, hash.low64));
  const absl::Status status = journal.Read();
  if (!status.ok()) return status;
  return journal;
}

absl::Status WriteJournal::Read() {
  absl::StatusOr<std::string> text = ReadTextFile(path_, kMaxJournalBytes);
  if (!text.ok()) return text.status();
  if (!std::string_view(*text).starts_with(head_)) return Restart();
  // A last record that was cut off is not counted, nor may the next one follow it.
  const size_t records = (text->size() - head_.size()) / sizeof(Record);
  for (size_t i = 0; i < records; ++i) {
    Record record;
    std::memcpy(&record, text->data() + head_.size() + i * sizeof(record), sizeof(record));
    earlier_[{static_cast<int>(record.tensor), static_cast<int>(record.block)}] = record.checksum;
  }
  const off_t whole = static_cast<off_t>(head_.size() + records * sizeof(Record));
  if (ftruncate(fd_.get(), whole) != 0) return FileError(path_, "set its size", errno);
  return absl::OkStatus();
}

absl::Status WriteJournal::Restart() {
  earlier_.clear();
  if (ftruncate(fd_.get(), 0) != 0) return FileError(path_, "set its size", errno);
  if (write(fd_.get(), head_.data(), head_.size()) != static_cast<ssize_t>(head_.size())) {
    return FileError(path_, "write", errno);
  }
  return absl::OkStatus();
}

absl::Status WriteJournal::Append(int tensor, int block, uint64_t checksum) {
  const Record record = {static_cast<uint32_t>(tensor), static_cast<uint32_t>(block), checksum};
  ssize_t written;
  do {
    written = write(fd_.get(), &record, sizeof(record));
  } while (written < 0 && errno == EINTR);
  if (written == sizeof(record)) return absl::OkStatus();
  return FileError(path_, "write", written < 0 ? errno : ENOSPC);
}

}  // namespace qianyi
