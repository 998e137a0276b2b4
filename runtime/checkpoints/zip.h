// The table of contents of a zip archive, plain or zip64: enough for files that torch.save wrote,
// whose entries are stored as they are. Trusts nothing: every size is checked before it is used.
// https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/checkpoints/byte_source.h"

namespace qianyi {

struct ZipEntry {
  std::string name;
  uint64_t begin = 0;  // of its data in the file
  uint64_t bytes = 0;
};

// The entries in the order of the directory. InvalidArgument for what is no zip, or has entries
// that are compressed or encrypted; OutOfRange for places outside the file.
absl::StatusOr<std::vector<ZipEntry>> ReadZipContents(const ByteSource& file);

}  // namespace qianyi
