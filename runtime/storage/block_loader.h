// The thread that brings a model's blocks from disk: the resident set once, the others
// through a ring, round and round. See weight_store.h. More help until each block has come
// once, so that a cold start takes no longer than its reading: resident memory is made ahead of the
// reads (fresh_memory.h), and one thread compares checksums.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/storage/block_reads.h"
#include "runtime/storage/fresh_memory.h"
#include "runtime/storage/lent_places.h"
#include "runtime/storage/model_file.h"
#include "runtime/storage/read_ahead.h"
#include "runtime/storage/wait_observer.h"

namespace qianyi {

// A block of the sweep, in execution order.
struct SweepBlock {
  Block block;
  bool resident = false;
  std::string name;  // for messages: tensor and file
};

class BlockLoader {
 public:
  struct Memory {
    std::byte* resident = nullptr;  // of all resident blocks, padded to pages
    std::byte* ring = nullptr;      // of the others as they pass
    uint64_t ring_bytes = 0;        // at least two of its largest blocks, or all of them
    std::byte* lent = nullptr;      // of some that pass, at times: see Lend
    uint64_t lent_bytes = 0;
  };
  // `memory` outlives the loader.
  BlockLoader(std::vector<SweepBlock> blocks, const Memory& memory,
              std::vector<std::unique_ptr<Reader>> readers);
  ~BlockLoader();  // waits for reads under way

  static constexpr uint64_t kNoTicket = ~uint64_t{0};
  struct Held {
    const std::byte* data = nullptr;
    uint64_t ticket = kNoTicket;  // to Release, unless kNoTicket
  };
  // Waits for block `index` of the sweep. Consumer thread only.
  absl::StatusOr<Held> Acquire(int index);
  // The same if it has come and those before it have been asked for; never waits. `data` is else
  // null.
  Held AcquireIfHere(int index);
  // `count` that were acquired one after the other, from `ticket` on.
  void Release(uint64_t ticket, int count = 1);
  // From now on so much of the lent memory may be used, none at first: blocks stay in it that pass
  // for the first time after that. With fewer bytes, what lies beyond goes back to the system
  // before it returns, which waits for the reads under way. Consumer thread only, with nothing
  // held.
  void Lend(uint64_t bytes);
  // Hears of waits in Acquire; null: nobody does. Outlives them.
  void Observe(WaitObserver* observer) { observer_ = observer; }

  // Where a resident block is, once it has come; else null. Consumer thread only.
  const std::byte* ResidentAt(int index) const;
  bool resident(int index) const { return blocks_[index].resident; }
  uint64_t read_bytes() const { return read_bytes_.load(std::memory_order_relaxed); }
  // In lent memory now.
  uint64_t lent_bytes() const { return lent_bytes_.load(std::memory_order_relaxed); }
  uint64_t resident_read_bytes() const { return resident_read_.load(std::memory_order_relaxed); }
  double stall_seconds() const { return stall_nanoseconds_.load(std::memory_order_relaxed) * 1e-9; }

 private:
  enum class State : uint8_t { kAbsent, kLoading, kReady, kFailed };
  struct Entry {  // of the ring, one per ticket in flight or in use
    uint64_t ticket = 0;
    uint64_t begin = 0;
    uint64_t bytes = 0;  // of the ring: none for one that comes to lent memory
    std::byte* at = nullptr;
    State state = State::kLoading;
    bool leased = false;
    bool released = false;
    absl::Status status;
  };

  void Run();
  void RunChecks();
  void IssueAll();  // all below with mutex_ held
  bool IssueNext();
  bool IssueResident();
  uint64_t NextResidentEnd() const;
  bool IssueStreamed();
  std::byte* AllocateRing(uint64_t bytes, uint64_t* begin) const;
  void Finish(const BlockReads::Done& done);
  void DropReleased();
  Entry* FindEntry(uint64_t ticket);
  uint64_t NextTicket() const;
  uint64_t PassTo(int place);
  bool NeedsCheck(const BlockReads::Done& done) const;
  int IndexOf(uint64_t id) const;
  absl::Status Check(uint64_t id);  // without mutex_
  bool HasWork() const;

  const std::vector<SweepBlock> blocks_;
  std::vector<int> streamed_;            // indices of blocks_ that pass through the ring
  std::vector<int> resident_;            // indices of those that stay
  std::vector<int> place_;               // block -> index in streamed_ or resident_
  std::vector<std::byte*> resident_at_;  // by index in resident_
  const Memory memory_;
  std::vector<std::atomic<State>> resident_state_;
  std::vector<std::atomic<bool>> checked_;  // by block
  WaitObserver* observer_ = nullptr;        // consumer thread only

  BlockReads reads_;  // loader thread only
  ReadAhead ahead_;   // with mutex_ held
  mutable std::mutex mutex_;
  std::condition_variable ready_;   // something finished
  std::condition_variable wanted_;  // there is room or a wish
  std::condition_variable to_check_;
  std::vector<BlockReads::Done> unchecked_;  // have been read; the first are to be checked first
  std::vector<Entry> entries_;               // by ticket; few
  std::vector<absl::Status> resident_status_;
  size_t next_resident_ = 0;
  LentPlaces lent_;          // by index in streamed_
  bool lending_ = false;     // blocks leave lent memory: no reads begin
  uint64_t next_issue_ = 0;  // ticket to load next; block streamed_[ticket % size]
  uint64_t next_use_ = 0;    // first ticket the consumer has not asked for
  bool stop_ = false;

  std::atomic<uint64_t> read_bytes_{0};
  std::atomic<uint64_t> resident_read_{0}, lent_bytes_{0};
  std::atomic<int64_t> stall_nanoseconds_{0};
  std::unique_ptr<FreshMemory> fresh_;  // of what is resident
  std::thread thread_, checker_;
};

}  // namespace qianyi
