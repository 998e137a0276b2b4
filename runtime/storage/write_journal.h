// What a long piece of writing has done so far, so that it can go on after a kill: a file of
// records that is appended to as blocks are written.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/storage/file_util.h"

namespace qianyi {

class WriteJournal {
 public:
  // Opens or makes the file and locks it for this process. `work` says what is written and from
  // what; records of other work are dropped. AlreadyExists when another process holds the lock.
  static absl::StatusOr<WriteJournal> Open(const std::string& path, std::string_view work);

  // Checksums of blocks by (tensor, block), as they stood in the file when it was opened. The
  // blocks themselves may have been lost with the power: look at them before trusting this.
  const std::map<std::pair<int, int>, uint64_t>& earlier() const { return earlier_; }
  // Forgets them, in the file too.
  absl::Status Restart();
  // Thread-safe: one record is one write.
  absl::Status Append(int tensor, int block, uint64_t checksum);

 private:
  WriteJournal(std::string path, UniqueFd fd, std::string head)
      : path_(std::move(path)), fd_(std::move(fd)), head_(std::move(head)) {}
  absl::Status Read();

  std::string path_;
  UniqueFd fd_;
  std::string head_;  // what the file begins with
  std::map<std::pair<int, int>, uint64_t> earlier_;
};

}  // namespace qianyi
