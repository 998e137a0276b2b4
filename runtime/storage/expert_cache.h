// Experts in memory: read when tokens are routed to them, kept by how often that happened.
//
// The engine says which experts a layer needs (Want) and takes them as they come (Next). A thread
// reads those that are not there, several at once, and after them those that the next layer is
// likely to need (Foresee), so that the disk works while the engine computes. The one that goes to
// make room is the one with the lowest decayed count of uses. docs/architecture.md.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/storage/block_reads.h"
#include "runtime/storage/model_file.h"
#include "runtime/storage/wait_observer.h"

namespace qianyi {

struct ExpertStats {
  uint64_t uses = 0;           // experts that layers needed, each once a step
  uint64_t hits = 0;           // of which nothing had to be read for this use
  uint64_t used_bytes = 0;     // the same in bytes
  uint64_t hit_bytes = 0;      //
  uint64_t read_bytes = 0;     // from disk
  uint64_t foreseen = 0;       // experts read before their layer asked
  uint64_t foreseen_used = 0;  // of which it did
  double stall_seconds = 0;    // the engine waited for an expert
};

class ExpertCache {
 public:
  struct Part {  // a block of one of the expert's matrices
    Block block;
    std::string name;  // for messages: tensor and file
  };
  using Expert = std::vector<Part>;

  // `memory` holds `slots` experts (one at least) of at most SlotBytes each, and outlives the
  // cache.
  ExpertCache(std::vector<Expert> experts, std::byte* memory, int slots,
              std::vector<std::unique_ptr<Reader>> readers);
  ~ExpertCache();  // waits for reads under way

  // Room for the largest expert: its parts one after the other, each padded to pages.
  static uint64_t SlotBytes(std::span<const Expert> experts);

  // All below but stats(): the engine's thread only.
  void BeginStep();
  // Begins a layer: these experts (distinct) are needed. Ends what was wanted before.
  void Want(std::span<const int32_t> experts);
  // Experts that the next layer will probably want, the likeliest first. They are read while
  // nothing else is, and only as long as what was read in vain stays below a twentieth.
  void Foresee(std::span<const int32_t> experts);
  bool holds_all() const { return slots_.size() >= experts_.size(); }

  // A wanted expert that is in memory, each once, in any order; waits for one. Valid until the
  // next call. DataLoss names file, tensor and offset when one cannot be read or its checksum is
  // wrong; the layer ends with that, the cache stays usable.
  absl::StatusOr<int32_t> Next();
  // Hears of waits in Next; null: nobody does. Outlives them.
  void Observe(WaitObserver* observer) { observer_ = observer; }
  // Part `part` of the expert that Next gave last.
  const std::byte* Data(int32_t expert, int part) const;

  ExpertStats stats() const;

 private:
  enum class State : uint8_t { kAbsent, kLoading, kReady, kFailed };
  struct Entry {
    State state = State::kAbsent;
    bool wanted = false;  // by the layer at hand, and not taken yet
    bool ahead = false;   // read for the layer after this one
    bool unused = false;  // read ahead, and no layer needed it so far
    int slot = -1;
    int parts_left = 0;  // under way
    uint64_t bytes = 0;
    double uses = 0;  // decayed to `used_step`
    double key = 0;   // order of going: grows with use and time, see Count
    uint64_t used_step = 0;
    absl::Status status;
  };

  void Run();
  bool IssueNext();  // all below with mutex_ held
  bool MayForesee(const Entry& entry) const;
  bool Issue(int32_t expert);
  int FreeSlot() const;
  void Count(Entry* entry);
  void Finish(uint64_t part, const absl::Status& status);
  void EndLayer();
  absl::Status Check(uint64_t part, const absl::Status& read);  // without mutex_

  const std::vector<Expert> experts_;
  std::vector<int32_t> expert_of_part_;
  std::vector<int> first_part_;        // by expert
  std::vector<uint64_t> part_offset_;  // in the slot
  const uint64_t slot_bytes_;
  std::byte* const memory_;

  BlockReads reads_;                  // loader thread only
  std::vector<bool> checked_;         // by part; loader thread only
  WaitObserver* observer_ = nullptr;  // consumer thread only

  mutable std::mutex mutex_;
  std::condition_variable ready_;   // something was read
  std::condition_variable issued_;  // there is something to read
  std::vector<Entry> entries_;      // by expert
  std::vector<int32_t> slots_;      // expert in each, -1 = free
  std::vector<int32_t> wanted_;     // of the layer at hand, not taken yet
  std::vector<int32_t> missing_;    // to read, in this order, from missing_begin_ on
  size_t missing_begin_ = 0;
  std::vector<int32_t> foreseen_;  // likewise, after all that is missing
  size_t foreseen_begin_ = 0;
  int32_t taken_ = -1;  // by the last Next: stays where it is
  uint64_t step_ = 0;
  uint64_t vain_bytes_ = 0;     // read ahead for layers that had no use for it
  uint64_t pending_bytes_ = 0;  // read ahead for a layer that was not reached yet
  ExpertStats stats_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace qianyi
