#include "runtime/storage/model_writer.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <span>
#include <system_error>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "runtime/storage/model_layout.h"
#include "xxhash.h"

namespace qianyi {
namespace {

constexpr uint64_t kMaxSideFileBytes = 1ull << 30;
constexpr std::string_view kJournalName = "progress";
constexpr std::string_view kVqvaeFolder = "vqvae";

bool IsSideFile(std::string_view name) {
  for (const std::string_view exact : {"vocab.json", "merges.txt", "special_tokens_map.json",
                                       "added_tokens.json", "generation_config.json"}) {
    if (name == exact) return true;
  }
  return name.ends_with(".model") || name.ends_with(".tiktoken") ||
         (name.starts_with("tokenizer") && name.ends_with(".json"));
}

absl::StatusOr<std::vector<std::string>> SideFileNames(const std::string& folder) {
  std::vector<std::string> names;
  if (folder.empty()) return names;
  absl::StatusOr<std::vector<std::string>> all = ListFolder(folder);
  if (!all.ok()) return all.status();
  for (std::string& name : *all) {
    if (IsSideFile(name)) names.push_back(std::move(name));
  }
  // The VQ-VAE of a picture model stays as it is: it is small, and computed in f32.
  std::error_code error;
  if (!std::filesystem::is_directory(JoinPath(folder, kVqvaeFolder), error)) return names;
  absl::StatusOr<std::vector<std::string>> inner = ListFolder(JoinPath(folder, kVqvaeFolder));
  if (!inner.ok()) return inner.status();
  for (const std::string& name : *inner) {
    if (name == "config.json" || name.ends_with(".safetensors") ||
        name.ends_with(".safetensors.index.json")) {
      names.push_back(JoinPath(kVqvaeFolder, name));
    }
  }
  return names;
}

absl::StatusOr<uint64_t> SideBytes(const std::string& folder) {
  absl::StatusOr<std::vector<std::string>> names = SideFileNames(folder);
  if (!names.ok()) return names.status();
  uint64_t bytes = 0;
  for (const std::string& name : *names) {
    const std::string path = JoinPath(folder, name);
    absl::StatusOr<UniqueFd> fd = OpenForReading(path);
    if (!fd.ok()) return fd.status();
    absl::StatusOr<uint64_t> size = FileSize(fd->get(), path);
    if (!size.ok()) return size.status();
    bytes += RoundUpToPage(*size);
  }
  return bytes;
}

std::string ParentOf(const std::string& path) {
  return std::filesystem::path(path).parent_path().string();
}

uint64_t FreeBytes(const std::string& folder) {
  struct statvfs info;
  if (statvfs(folder.c_str(), &info) != 0) return UINT64_MAX;
  return static_cast<uint64_t>(info.f_bavail) * info.f_frsize;
}

std::string PartialPrefix(const std::string& destination) {
  return absl::StrFormat(".%s.partial-", std::filesystem::path(destination).filename().string());
}

absl::Status SyncFolder(const std::string& folder) {
  const UniqueFd fd(open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd) return FileError(folder, "open the folder", errno);
  if (fsync(fd.get()) != 0) return FileError(folder, "sync the folder", errno);
  return absl::OkStatus();
}

absl::Status WriteFile(const std::string& path, std::string_view text) {
  const UniqueFd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
  if (!fd) return FileError(path, "create", errno);
  absl::Status status = WriteExactly(fd.get(), path, 0, std::as_bytes(std::span(text)));
  if (status.ok() && fsync(fd.get()) != 0) status = FileError(path, "sync", errno);
  return status;
}

absl::Status CheckDestination(const std::string& destination) {
  struct stat info;
  if (stat(destination.c_str(), &info) != 0) {
    const std::string parent = ParentOf(destination);
    if (stat(parent.c_str(), &info) == 0 && S_ISDIR(info.st_mode)) return absl::OkStatus();
    return absl::NotFoundError(
        absl::StrFormat("%s: there is no folder %s to put it in", destination, parent));
  }
  if (S_ISDIR(info.st_mode)) {
    absl::StatusOr<std::vector<std::string>> names = ListFolder(destination);
    if (!names.ok()) return names.status();
    struct statx extended;
    const bool mounted =
        statx(AT_FDCWD, destination.c_str(), 0, STATX_BASIC_STATS, &extended) == 0 &&
        (extended.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0;
    if (names->empty() && mounted) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "%s: is a mount point, which cannot be replaced; choose a new folder inside it",
          destination));
    }
    if (names->empty()) return absl::OkStatus();
  }
  return absl::AlreadyExistsError(absl::StrFormat(
      "%s: exists already and is not an empty folder; remove it or choose another destination",
      destination));
}

}  // namespace

ModelWriter::ModelWriter(ModelFile model, std::string destination)
    : model_(std::move(model)), destination_(std::move(destination)) {}

ModelWriter::~ModelWriter() {
  file_ = UniqueFd();
  std::error_code ignored;  // nobody is left to tell
  if (!partial_.empty()) std::filesystem::remove_all(partial_, ignored);
}

absl::StatusOr<std::unique_ptr<ModelWriter>> ModelWriter::Create(ModelFile model,
                                                                 const std::string& destination,
                                                                 const SideFiles& side_files,
                                                                 std::string_view work) {
  std::error_code error;
  // Symbolic links are followed now: a rename would not.
  std::filesystem::path path = std::filesystem::weakly_canonical(destination, error);
  if (!error && path.is_relative()) path = std::filesystem::absolute(path, error);
  if (destination.empty() || error) {
    return absl::InvalidArgumentError(
        absl::StrFormat("destination '%s' is not a path", destination));
  }
  if (!path.has_filename()) path = path.parent_path();  // "out/"
  const absl::Status free = CheckDestination(path.string());
  if (!free.ok()) return free;
  absl::StatusOr<uint64_t> side_bytes = SideBytes(side_files.folder);
  if (!side_bytes.ok()) return side_bytes.status();
  for (const auto& [name, text] : side_files.texts) *side_bytes += RoundUpToPage(text.size());

  std::unique_ptr<ModelWriter> writer(new ModelWriter(std::move(model), path.string()));
  absl::Status status = work.empty() ? writer->CheckRoom(*side_bytes) : writer->OpenJournal(work);
  if (status.ok() && !work.empty() && writer->earlier_blocks() == 0) {
    status = writer->CheckRoom(*side_bytes);
  }
  if (status.ok() && work.empty()) status = writer->MakeFolder();
  if (status.ok()) status = writer->Reserve();
  if (status.ok()) status = writer->WriteSideFiles(side_files);
  if (!status.ok()) return writer->Explain(status);
  return writer;
}

// The folder of a writer that can be gone on with has one name, and a lock in it.
absl::Status ModelWriter::OpenJournal(std::string_view work) {
  const std::string folder = JoinPath(
      ParentOf(destination_),
      absl::StrFormat(".%s.partial", std::filesystem::path(destination_).filename().string()));
  const bool is_new = mkdir(folder.c_str(), 0777) == 0;
  if (!is_new && errno != EEXIST) return FileError(folder, "create the folder", errno);
  const std::string all_work = absl::StrFormat("%s\n%s", work, HeaderText(model_));
  absl::StatusOr<WriteJournal> journal =
      WriteJournal::Open(JoinPath(folder, kJournalName), all_work);
  if (!journal.ok()) {
    if (is_new) rmdir(folder.c_str());
    return journal.status();
  }
  partial_ = folder;
  journal_.emplace(*std::move(journal));
  absl::StatusOr<std::vector<std::string>> names = ListFolder(folder);
  if (!names.ok()) return names.status();
  for (const std::string& name : *names) {
    const bool kept = name == kJournalName || (name == kModelFileName && earlier_blocks() > 0);
    if (kept) continue;
    std::error_code error;
    std::filesystem::remove_all(JoinPath(folder, name), error);
    if (error) return FileError(JoinPath(folder, name), "remove", error.value());
  }
  return absl::OkStatus();
}

absl::Status ModelWriter::MakeFolder() {
  const std::string parent = ParentOf(destination_);
  const std::string prefix = PartialPrefix(destination_);
  for (int attempt = 0;; ++attempt) {  // names of a former process with our id are skipped
    const std::string path =
        JoinPath(parent, absl::StrFormat("%s%d%s", prefix, getpid(),
                                         attempt == 0 ? "" : absl::StrFormat("-%d", attempt)));
    if (mkdir(path.c_str(), 0777) == 0) {
      partial_ = path;
      return absl::OkStatus();
    }
    if (errno != EEXIST) return FileError(path, "create the folder", errno);
  }
}

absl::Status ModelWriter::CheckRoom(uint64_t side_bytes) const {
  const uint64_t file_bytes = model_.file_bytes[0];
  const uint64_t free_bytes = FreeBytes(ParentOf(destination_));
  if (file_bytes + side_bytes > free_bytes) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("%s: not enough room on its file system", destination_));
  }
  rlimit limit;
  if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur < file_bytes) {
    return absl::ResourceExhaustedError(absl::StrFormat(
        "%s: files may have at most %d bytes here (`ulimit -f`)", destination_, limit.rlim_cur));
  }
  return absl::OkStatus();
}

absl::Status ModelWriter::Reserve() {
  const uint64_t file_bytes = model_.file_bytes[0];
  file_path_ = JoinPath(partial_, kModelFileName);
  const int fresh = earlier_blocks() > 0 ? 0 : O_EXCL;
  file_ = UniqueFd(open(file_path_.c_str(), O_RDWR | O_CREAT | fresh | O_CLOEXEC, 0666));
  if (!file_) return FileError(file_path_, "create", errno);
  int result;
  do {
    result = fallocate(file_.get(), 0, 0, static_cast<off_t>(file_bytes));
  } while (result != 0 && errno == EINTR);
  if (result == 0) return absl::OkStatus();
  // The file system cannot reserve; glibc's posix_fallocate would write it all once over.
  if (errno != EOPNOTSUPP && errno != ENOSYS && errno != EINVAL) {
    return FileError(file_path_, "reserve its space", errno);
  }
  if (ftruncate(file_.get(), static_cast<off_t>(file_bytes)) != 0) {
    return FileError(file_path_, "set its size", errno);
  }
  return absl::OkStatus();
}

absl::Status ModelWriter::WriteSideFiles(const SideFiles& side_files) {
  std::map<std::string, std::string> texts = side_files.texts;
  texts["config.json"] = model_.spec.config_json;
  for (const auto& [name, text] : texts) {
    const absl::Status status = WriteFile(JoinPath(partial_, name), text);
    if (!status.ok()) return status;
  }
  absl::StatusOr<std::vector<std::string>> names = SideFileNames(side_files.folder);
  if (!names.ok()) return names.status();
  for (const std::string& name : *names) {
    if (texts.contains(name)) continue;
    if (const std::string path = JoinPath(partial_, kVqvaeFolder);
        name.starts_with(kVqvaeFolder) && mkdir(path.c_str(), 0777) != 0 && errno != EEXIST) {
      return FileError(path, "create the folder", errno);
    }
    absl::StatusOr<std::string> text =
        ReadTextFile(JoinPath(side_files.folder, name), kMaxSideFileBytes);
    if (!text.ok()) return text.status();
    const absl::Status status = WriteFile(JoinPath(partial_, name), *text);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

bool ModelWriter::WasWritten(int tensor, int block, std::byte* scratch) {
  if (!journal_) return false;
  const auto earlier = journal_->earlier().find({tensor, block});
  if (earlier == journal_->earlier().end()) return false;
  Block& place = model_.tensors[tensor].blocks[block];
  const std::span<std::byte> bytes(scratch, place.bytes);
  const bool intact = ReadExactly(file_.get(), file_path_, place.offset, bytes).ok() &&
                      XXH3_64bits(scratch, place.bytes) == earlier->second;
  if (!intact) return false;
  place.checksum = earlier->second;
  ++blocks_written_;
  return true;
}

absl::Status ModelWriter::Write(int tensor, int block, const std::byte* data) {
  Block& place = model_.tensors[tensor].blocks[block];
  place.checksum = XXH3_64bits(data, place.bytes);
  const absl::Status status =
      WriteExactly(file_.get(), file_path_, place.offset, std::span(data, place.bytes));
  if (!status.ok()) return Explain(status);
  if (journal_) {
    const absl::Status noted = journal_->Append(tensor, block, place.checksum);
    if (!noted.ok()) return Explain(noted);
  }
  ++blocks_written_;
  return absl::OkStatus();
}

absl::Status ModelWriter::Finish() {
  if (blocks_written_ != FileOrder(model_).size()) {
    return absl::FailedPreconditionError(absl::StrFormat("%s: %d blocks were written of %d",
                                                         destination_, blocks_written_.load(),
                                                         FileOrder(model_).size()));
  }
  const absl::Status status = Publish();
  return status.ok() ? status : Explain(status);
}

absl::Status ModelWriter::Publish() {
  const std::string header = HeaderText(model_);
  absl::Status status = WriteExactly(file_.get(), file_path_, 0, std::as_bytes(std::span(header)));
  if (!status.ok()) return status;
  if (fsync(file_.get()) != 0) return FileError(file_path_, "sync", errno);
  const std::string journal = JoinPath(partial_, kJournalName);
  if (journal_ && unlink(journal.c_str()) != 0) return FileError(journal, "remove", errno);
  status = SyncFolder(partial_);
  if (!status.ok()) return status;
  if (rename(partial_.c_str(), destination_.c_str()) != 0) {
    const int error = errno;
    if (error == ENOTEMPTY || error == EEXIST || error == ENOTDIR) {
      status = CheckDestination(destination_);
      if (!status.ok()) return status;
    }
    return FileError(destination_, "be given its final name", error);
  }
  partial_.clear();
  return SyncFolder(ParentOf(destination_));
}

absl::Status ModelWriter::Explain(const absl::Status& status) const {
  const bool full = status.code() == absl::StatusCode::kResourceExhausted ||
                    status.code() == absl::StatusCode::kOutOfRange;  // EFBIG
  const bool broken = status.code() == absl::StatusCode::kUnknown;   // EIO
  if (!full && !broken) return status;
  const std::string parent = ParentOf(destination_);
  std::string text =
      absl::StrFormat("%s. The model needs %d bytes; %d are free in %s. %s", status.message(),
                      model_.file_bytes[0], FreeBytes(parent), parent,
                      full ? "Free some space, choose a destination elsewhere or a smaller dtype"
                           : "Check the disk, or choose a destination elsewhere");
  // Left by a process that was killed, or by one that is at work.
  const absl::StatusOr<std::vector<std::string>> names = ListFolder(parent);
  if (names.ok()) {
    for (const std::string& name : *names) {
      const bool own = !partial_.empty() && partial_.ends_with(name);
      if (name.starts_with(PartialPrefix(destination_)) && !own) {
        absl::StrAppendFormat(&text, ". If no convert is running, %s is a leftover to remove",
                              JoinPath(parent, name));
      }
    }
  }
  return full ? absl::ResourceExhaustedError(text) : absl::DataLossError(text);
}

}  // namespace qianyi
