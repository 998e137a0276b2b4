#include "runtime/storage/bench_io.h"

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <deque>
#include <memory>

#include "absl/strings/str_format.h"
#include "runtime/storage/file_util.h"
#include "runtime/storage/model_layout.h"

namespace qianyi {
namespace {

constexpr uint64_t kMaxChunkBytes = 64 << 20;
constexpr uint64_t kMaxBufferBytes = 4ull << 30;

double Seconds(const timeval& time) { return time.tv_sec + 1e-6 * time.tv_usec; }

double CpuSeconds() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return Seconds(usage.ru_utime) + Seconds(usage.ru_stime);
}

}  // namespace

uint64_t StretchBegin(double time_share, int stretches, uint64_t bytes) {
  const uint64_t stretch = static_cast<uint64_t>(std::clamp(time_share, 0.0, 1.0) * stretches);
  return bytes / stretches * stretch / kPageBytes * kPageBytes;
}

absl::StatusOr<IoReport> BenchIo(const std::string& path, const BenchIoOptions& options) {
  const uint64_t chunk = options.chunk_bytes;
  if (chunk == 0 || chunk % kPageBytes != 0 || chunk > kMaxChunkBytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("a chunk must be a multiple of %d bytes, at most %d, not %d", kPageBytes,
                        kMaxChunkBytes, chunk));
  }
  const uint64_t least = chunk * static_cast<uint64_t>(std::max(options.depth, 1));
  const uint64_t wanted = options.buffer_bytes > 0 ? options.buffer_bytes : least;
  if (wanted < least || wanted > std::max(kMaxBufferBytes, least)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("a buffer must hold the reads under way, %d bytes, and at most %d, not %d",
                        least, kMaxBufferBytes, wanted));
  }
  absl::StatusOr<std::unique_ptr<Reader>> opened =
      OpenReader(path, {.kind = options.kind, .depth = options.depth});
  if (!opened.ok()) return opened.status();
  Reader& reader = **opened;
  if (reader.size() == 0) return absl::InvalidArgumentError(path + ": is empty");
  const PageBuffer buffer = AllocatePages(wanted);
  if (buffer == nullptr) return absl::ResourceExhaustedError("no memory to read into");
  const uint64_t limit = options.max_bytes > 0 ? options.max_bytes : UINT64_MAX;
  const uint64_t end = RoundUpToPage(std::min(reader.size(), limit));

  IoReport report{.reader = std::string(reader.name()),
                  .chunk_bytes = chunk,
                  .depth = reader.depth(),
                  .buffer_bytes = wanted};
  const double cpu_before = CpuSeconds();
  const auto start = std::chrono::steady_clock::now();
  const auto elapsed = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  uint64_t next = 0;
  int in_flight = 0;
  const auto go_on = [&] {  // false: no read begins any more
    const double share = options.max_seconds > 0 ? elapsed() / options.max_seconds : 0;
    next = std::max(next, StretchBegin(share, options.stretches, end));
    return share < 1 && next < end;
  };
  std::deque<uint64_t> places;  // free ones; the one that was longest is next
  for (uint64_t place = 0; place < wanted / chunk; ++place) places.push_back(place);
  const auto submit = [&] {
    const uint64_t bytes = std::min(chunk, end - next), place = places.front();
    places.pop_front();
    const absl::Status status = reader.Submit({next, bytes, buffer.get() + place * chunk, place});
    next += bytes;
    in_flight += status.ok();
    return status;
  };
  absl::Status status;
  while (in_flight < reader.depth() && next < end && status.ok()) status = submit();
  while (in_flight > 0) {
    const ReadCompletion done = reader.Wait();
    --in_flight;
    places.push_back(done.cookie);
    status.Update(done.status);
    report.bytes += done.bytes;
    if (status.ok() && go_on()) status = submit();
  }
  if (!status.ok()) return status;
  report.seconds = elapsed();
  report.cpu_seconds = CpuSeconds() - cpu_before;
  return report;
}

}  // namespace qianyi
