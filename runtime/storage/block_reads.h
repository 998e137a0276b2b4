// Reads whole blocks through readers that deal in chunks: keeps each reader's queue full,
// asks again for what a short read left out, and reports a block once all of it is there.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <list>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "runtime/storage/reader.h"

namespace qianyi {

// Used by one thread.
class BlockReads {
 public:
  struct Block {
    uint64_t id = 0;  // given back when it is done
    int file = 0;
    uint64_t offset = 0;  // multiple of kPageBytes
    uint64_t bytes = 0;   // multiple of kPageBytes
    std::byte* to = nullptr;
  };
  struct Done {
    uint64_t id = 0;
    absl::Status status;
  };

  explicit BlockReads(std::vector<std::unique_ptr<Reader>> readers);

  void Add(const Block& block);
  bool idle() const { return jobs_.empty(); }
  // Bytes of added blocks that were not submitted yet.
  uint64_t waiting_bytes() const { return waiting_bytes_; }
  int depth() const;  // of the reader that takes most
  // At most this many reads of each file are under way from now on, and never more than its reader
  // takes. Those that are more already are waited for first.
  void Limit(int in_flight) { limit_ = in_flight; }
  // What could be under way at once besides what is.
  uint64_t free_bytes() const;
  // Whether blocks should be added, so that the disk never runs dry and `waiting_bytes` are left
  // when all that may be is under way.
  bool Wants(uint64_t waiting) const { return waiting_bytes_ < waiting + free_bytes(); }
  // Submits what fits, waits for one chunk, and returns a block if that finished one.
  // Not to be called when idle.
  std::optional<Done> Wait();

 private:
  struct Job {
    Block block;
    uint64_t submitted = 0;  // bytes
    int outstanding = 0;     // chunks under way
    bool reported = false;
    absl::Status status;
  };
  struct Chunk {
    Job* job = nullptr;
    ReadRequest request;
  };

  int LimitOf(int file) const { return std::min(limit_, readers_[file]->depth()); }
  void Submit();
  void SubmitChunk(Job* job, const ReadRequest& request);  // its reader has room
  void Complete(int file, const ReadCompletion& completion);
  std::optional<Done> TakeFinished();

  std::vector<std::unique_ptr<Reader>> readers_;
  int limit_ = std::numeric_limits<int>::max();  // of each reader
  std::vector<int> in_flight_;                   // by reader
  std::vector<std::vector<Chunk>> chunks_;       // by reader; cookie = index
  std::list<Job> jobs_;                          // in the order added; addresses are stable
  std::list<Job> spare_;  // places of jobs that are done: steps allocate none
  uint64_t waiting_bytes_ = 0;
};

}  // namespace qianyi
