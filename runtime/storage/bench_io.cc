#include "runtime/storage/bench_io.h"

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <memory>

#include "absl/strings/str_format.h"
#include "runtime/storage/file_util.h"
#include "runtime/storage/model_layout.h"

namespace qianyi {
namespace {

constexpr uint64_t kMaxChunkBytes = 64 << 20;

double Seconds(const timeval& time) { return time.tv_sec + 1e-6 * time.tv_usec; }

double CpuSeconds() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return Seconds(usage.ru_utime) + Seconds(usage.ru_stime);
}

}  // namespace

absl::StatusOr<IoReport> BenchIo(const std::string& path, const BenchIoOptions& options) {
  const uint64_t chunk = options.chunk_bytes;
  if (chunk == 0 || chunk % kPageBytes != 0 || chunk > kMaxChunkBytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("a chunk must be a multiple of %d bytes, at most %d, not %d", kPageBytes,
                        kMaxChunkBytes, chunk));
  }
  absl::StatusOr<std::unique_ptr<Reader>> opened =
      OpenReader(path, {.kind = options.kind, .depth = options.depth});
  if (!opened.ok()) return opened.status();
  Reader& reader = **opened;
  if (reader.size() == 0) return absl::InvalidArgumentError(path + ": is empty");
  const PageBuffer buffer = AllocatePages(chunk * reader.depth());
  if (buffer == nullptr) return absl::ResourceExhaustedError("no memory to read into");
  const uint64_t limit = options.max_bytes > 0 ? options.max_bytes : UINT64_MAX;
  const uint64_t end = RoundUpToPage(std::min(reader.size(), limit));

  IoReport report{
      .reader = std::string(reader.name()), .chunk_bytes = chunk, .depth = reader.depth()};
  const double cpu_before = CpuSeconds();
  const auto start = std::chrono::steady_clock::now();
  const auto elapsed = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  uint64_t next = 0;
  int in_flight = 0;
  const auto submit = [&](uint64_t slot) {
    const uint64_t bytes = std::min(chunk, end - next);
    const absl::Status status = reader.Submit({next, bytes, buffer.get() + slot * chunk, slot});
    next += bytes;
    in_flight += status.ok();
    return status;
  };
  absl::Status status;
  for (int slot = 0; slot < reader.depth() && next < end && status.ok(); ++slot) {
    status = submit(static_cast<uint64_t>(slot));
  }
  while (in_flight > 0) {
    const ReadCompletion done = reader.Wait();
    --in_flight;
    status.Update(done.status);
    report.bytes += done.bytes;
    const bool late = options.max_seconds > 0 && elapsed() >= options.max_seconds;
    if (status.ok() && next < end && !late) status = submit(done.cookie);
  }
  if (!status.ok()) return status;
  report.seconds = elapsed();
  report.cpu_seconds = CpuSeconds() - cpu_before;
  return report;
}

}  // namespace qianyi
