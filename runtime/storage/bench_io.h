// How fast a file can be read the way weights are read.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "runtime/storage/reader.h"

namespace qianyi {

struct BenchIoOptions {
  ReaderKind kind = ReaderKind::kAuto;
  int depth = 4;
  uint64_t chunk_bytes = kReadChunkBytes;  // multiple of kPageBytes
  uint64_t buffer_bytes = 0;               // reads go to its places in turn; 0 = depth chunks
  uint64_t max_bytes = 0;                  // stop after so many; 0 = the whole file
  double max_seconds = 0;                  // start no read after so long; 0 = no limit
  // With a limit of time: so many stretches of the file that lie evenly, each for its share of it.
  int stretches = 1;
};

struct IoReport {
  std::string reader;  // "io_uring+O_DIRECT", …
  uint64_t chunk_bytes = 0;
  int depth = 0;
  uint64_t buffer_bytes = 0;
  uint64_t bytes = 0;
  double seconds = 0;
  double cpu_seconds = 0;  // of this process, user and system

  double gb_per_second() const { return seconds > 0 ? bytes / seconds * 1e-9 : 0; }
  double cpu_seconds_per_gb() const { return bytes > 0 ? cpu_seconds / bytes * 1e9 : 0; }
};

// Where of `bytes` the stretch begins that is due after `time_share` of the time; a whole page.
uint64_t StretchBegin(double time_share, int stretches, uint64_t bytes);

// Reads a file once from its start, or in stretches. InvalidArgument for an empty file or bad
// options.
absl::StatusOr<IoReport> BenchIo(const std::string& path, const BenchIoOptions& options);

}  // namespace qianyi
