#include "runtime/storage/block_reads.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "runtime/storage/model_file.h"

namespace qianyi {

BlockReads::BlockReads(std::vector<std::unique_ptr<Reader>> readers)
    : readers_(std::move(readers)), in_flight_(readers_.size(), 0) {
  for (const auto& reader : readers_) chunks_.emplace_back(reader->depth());
}

void BlockReads::Add(const Block& block) {
  if (spare_.empty()) spare_.emplace_back();
  jobs_.splice(jobs_.end(), spare_, spare_.begin());
  jobs_.back() = Job{.block = block, .status = {}};
  waiting_bytes_ += block.bytes;
}

uint64_t BlockReads::free_bytes() const {
  uint64_t bytes = 0;
  for (size_t file = 0; file < readers_.size(); ++file) {
    bytes += std::max(0, LimitOf(static_cast<int>(file)) - in_flight_[file]) * kReadChunkBytes;
  }
  return bytes;
}

int BlockReads::depth() const {
  int depth = 0;
  for (const auto& reader : readers_) depth = std::max(depth, reader->depth());
  return depth;
}

void BlockReads::SubmitChunk(Job* job, const ReadRequest& request) {
  const int file = job->block.file;
  auto& chunks = chunks_[file];
  auto free = std::find_if(chunks.begin(), chunks.end(),
                           [](const Chunk& chunk) { return chunk.job == nullptr; });
  *free = {job, request};
  free->request.cookie = static_cast<uint64_t>(free - chunks.begin());
  ++job->outstanding;
  ++in_flight_[file];
  const absl::Status status = readers_[file]->Submit(free->request);
  if (!status.ok()) {
    job->status.Update(status);
    --job->outstanding;
    --in_flight_[file];
    free->job = nullptr;
  }
}

void BlockReads::Submit() {
  for (Job& job : jobs_) {
    const int file = job.block.file;
    while (job.status.ok() && job.submitted < job.block.bytes && in_flight_[file] < LimitOf(file)) {
      const uint64_t bytes = std::min(kReadChunkBytes, job.block.bytes - job.submitted);
      SubmitChunk(&job, {job.block.offset + job.submitted, bytes, job.block.to + job.submitted, 0});
      job.submitted += bytes;
      waiting_bytes_ -= bytes;
    }
    if (!job.status.ok() && job.submitted < job.block.bytes) {
      waiting_bytes_ -= job.block.bytes - job.submitted;
      job.submitted = job.block.bytes;
    }
  }
}

void BlockReads::Complete(int file, const ReadCompletion& completion) {
  Chunk& chunk = chunks_[file][completion.cookie];
  Job* job = chunk.job;
  const ReadRequest request = chunk.request;
  chunk.job = nullptr;
  --job->outstanding;
  --in_flight_[file];
  if (!completion.status.ok()) {
    job->status.Update(completion.status);
    return;
  }
  if (completion.bytes >= request.bytes || !job->status.ok()) return;
  // Direct reads must stay aligned: go back to the start of the page that was cut.
  const uint64_t got = completion.bytes / kPageBytes * kPageBytes;
  if (got == 0) {
    job->status = absl::DataLossError(
        absl::StrFormat("read %d of %d bytes at offset %d: the file is shorter than when it was "
                        "opened",
                        completion.bytes, request.bytes, request.offset));
    return;
  }
  SubmitChunk(job, {request.offset + got, request.bytes - got, request.to + got, 0});
}

std::optional<BlockReads::Done> BlockReads::TakeFinished() {
  std::optional<Done> done;
  for (Job& job : jobs_) {
    if (!job.reported && job.submitted == job.block.bytes && job.outstanding == 0) {
      job.reported = true;
      done = Done{job.block.id, job.status};
      break;
    }
  }
  while (!jobs_.empty() && jobs_.front().reported) {
    spare_.splice(spare_.end(), jobs_, jobs_.begin());
  }
  return done;
}

std::optional<BlockReads::Done> BlockReads::Wait() {
  Submit();
  if (std::optional<Done> done = TakeFinished()) return done;
  // The oldest block's file is waited for: the sweep needs it first.
  for (const Job& job : jobs_) {
    if (job.outstanding == 0) continue;
    const int file = job.block.file;
    Complete(file, readers_[file]->Wait());
    break;
  }
  Submit();
  return TakeFinished();
}

}  // namespace qianyi
