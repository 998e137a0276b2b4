// Embedding blocks that are not resident: read when a row of them is wanted, kept least
// recently used first out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "runtime/storage/block_reads.h"
#include "runtime/storage/model_file.h"
#include "runtime/storage/wait_observer.h"

namespace qianyi {

// Used by one thread.
class GatherCache {
 public:
  // `memory` of `memory_bytes` holds as many blocks of `block_bytes` (the largest, padded to
  // pages) as fit, at least one. `blocks` is the number of blocks there are.
  GatherCache(std::byte* memory, uint64_t memory_bytes, uint64_t block_bytes, int blocks,
              std::vector<std::unique_ptr<Reader>> readers);

  int slots() const { return static_cast<int>(slots_.size()); }

  struct Wish {
    int id = 0;  // of the block, < blocks
    Block block;
    const std::byte* data = nullptr;  // result, valid until the next Load
  };
  // Brings at most slots() distinct blocks into memory at once. DataLoss when one cannot be
  // read or its checksum is wrong.
  absl::Status Load(std::span<Wish> wishes);

  uint64_t read_bytes() const { return read_bytes_; }
  // Hears of waits in Load; null: nobody does. Outlives them.
  void Observe(WaitObserver* observer) { observer_ = observer; }

 private:
  struct Slot {
    int id = -1;
    uint64_t used = 0;  // time of last use
    std::byte* data = nullptr;
  };

  std::vector<Slot> slots_;
  std::vector<int> slot_of_;   // by block id, -1 = not here
  std::vector<bool> checked_;  // by block id
  BlockReads reads_;
  WaitObserver* observer_ = nullptr;
  uint64_t clock_ = 0;
  uint64_t read_bytes_ = 0;
};

}  // namespace qianyi
