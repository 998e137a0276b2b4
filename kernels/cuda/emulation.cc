#include "kernels/cuda/emulation.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <unordered_map>
#include <utility>

#include "kernels/cuda/fiber.h"

namespace qianyi::cuda::emulation {
namespace {

constexpr int kMostThreads = 1024;
constexpr uint32_t kNobody = 0xffffffffu;

FaultCollector* collector = nullptr;

// When a byte of shared memory was last used and by whom.
struct Use {
  uint32_t thread = kNobody;
  bool lanes = false;  // other lanes of the same warp as well
  uint64_t interval = 0;
  uint64_t warp_interval = 0;
};
struct ByteUse {
  Use write;
  Use read;        // the last one
  Use other_read;  // the last one by another warp
  bool atomic = false;
  bool pending = false;  // an asynchronous copy is under way
};

struct PendingCopy {
  void* to;
  const void* from;
  size_t bytes;
};

enum class State : uint8_t { kReady, kAtBarrier, kAtWarp, kDone };

struct Thread {
  Fiber fiber;
  State state = State::kDone;
  std::vector<PendingCopy> open_copies;
  std::vector<std::vector<PendingCopy>> copy_groups;
};

struct Warp {
  void* lanes[2][kWarpThreads];
  uint64_t interval = 0;  // completed operations
  int arrived = 0;
};

// The block that runs on this thread of the system. Its fibers and memory serve one block after
// the other; intervals count on, so that nothing of the last one looks recent.
struct Block {
  Context scheduler;
  std::vector<std::unique_ptr<Thread>> threads;
  Warp warps[kMostThreads / kWarpThreads];
  int count = 0;
  int current = 0;
  int at_barrier = 0;
  int done = 0;
  uint64_t interval = 1;
  int64_t index[3] = {};
  const void* context = nullptr;
  void (*body)(const void*) = nullptr;
  alignas(64) std::byte shared[kMaxSharedBytes];
  std::vector<ByteUse> uses{kMaxSharedBytes};
  size_t shared_used = 0;
  std::unordered_map<const void*, size_t> sites;

  Block() { AdoptThread(scheduler); }
  void Run(int64_t x, int64_t y, int64_t z);
};

Block& Current() {
  static thread_local std::unique_ptr<Block> block = std::make_unique<Block>();
  return *block;
}

void ThreadMain() {
  Entered();
  Block& block = Current();
  Thread& self = *block.threads[block.current];
  block.body(block.context);
  if (!self.open_copies.empty() || !self.copy_groups.empty()) {
    Fault("a thread ends before its asynchronous copies do");
    self.open_copies.clear();
    self.copy_groups.clear();
  }
  self.state = State::kDone;
  ++block.done;
  Leave(self.fiber.context(), block.scheduler);
}

void Yield(Block& block, State state) {
  Thread& self = *block.threads[block.current];
  const int index = block.current;
  self.state = state;
  Switch(self.fiber.context(), block.scheduler);
  block.current = index;
}

std::string Place(const Block& block) {
  return "thread " + std::to_string(block.current) + " of block (" +
         std::to_string(block.index[0]) + ", " + std::to_string(block.index[1]) + ", " +
         std::to_string(block.index[2]) + ")";
}

void Block::Run(int64_t x, int64_t y, int64_t z) {
  index[0] = x, index[1] = y, index[2] = z;
  at_barrier = done = 0;
  shared_used = 0;
  sites.clear();
  ++interval;
  // What hardware leaves in shared memory is whatever was there before.
  std::memset(shared, 0xcb, sizeof(shared));
  for (ByteUse& use : uses) use.pending = false;
  for (int i = 0; i < count; ++i) {
    threads[i]->fiber.Start(ThreadMain);
    threads[i]->state = State::kReady;
    threads[i]->open_copies.clear();
    threads[i]->copy_groups.clear();
  }
  for (Warp& warp : warps) warp.arrived = 0;
  const bool backwards = (x + y + z) % 2 != 0;  // no kernel may count on an order
  while (done < count) {
    bool ran = false;
    for (int i = 0; i < count; ++i) {
      current = backwards ? count - 1 - i : i;
      if (threads[current]->state != State::kReady) continue;
      ran = true;
      Switch(scheduler, threads[current]->fiber.context());
    }
    if (ran) continue;
    int waiting = 0;
    for (int i = 0; i < count; ++i) waiting += threads[i]->state != State::kDone;
    Fault("block (" + std::to_string(x) + ", " + std::to_string(y) + ", " + std::to_string(z) +
          "): " + std::to_string(at_barrier) + " threads wait at a barrier and " +
          std::to_string(waiting - at_barrier) + " for their warp, which others never reach");
    return;
  }
}

bool Conflicts(const Block& block, const Use& use) {
  const uint32_t me = static_cast<uint32_t>(block.current);
  if (use.thread == kNobody || use.interval != block.interval) return false;
  if (use.thread / kWarpThreads != me / kWarpThreads) return true;
  return (use.thread != me || use.lanes) &&
         use.warp_interval == block.warps[me / kWarpThreads].interval;
}

void Note(const Block& block, Use* use) {
  const uint32_t me = static_cast<uint32_t>(block.current);
  const uint64_t warp_interval = block.warps[me / kWarpThreads].interval;
  const bool same = use->interval == block.interval && use->warp_interval == warp_interval &&
                    use->thread / kWarpThreads == me / kWarpThreads;
  use->lanes = same && (use->lanes || use->thread != me);
  use->thread = me;
  use->interval = block.interval;
  use->warp_interval = warp_interval;
}

}  // namespace

FaultCollector::FaultCollector() { collector = this; }
FaultCollector::~FaultCollector() { collector = nullptr; }

void Fault(const std::string& what) {
  if (collector != nullptr) {
    if (collector->faults_.size() < 100) collector->faults_.push_back(what);
    return;
  }
  std::fprintf(stderr, "CUDA emulation: %s\n", what.c_str());
  std::abort();
}

void RunGrid(GridSize grid, int threads, const void* context, void (*body)(const void*)) {
  Block& block = Current();
  if (threads < 1 || threads > kMostThreads || grid.y > 65535 || grid.z > 65535) {
    Fault("a launch of " + std::to_string(threads) + " threads, " + std::to_string(grid.y) + " × " +
          std::to_string(grid.z) + " blocks in y and z, which no device takes");
    return;
  }
  while (static_cast<int>(block.threads.size()) < threads) {
    block.threads.push_back(std::make_unique<Thread>());
  }
  block.count = threads;
  block.context = context;
  block.body = body;
  for (int64_t z = 0; z < grid.z; ++z) {
    for (int64_t y = 0; y < grid.y; ++y) {
      for (int64_t x = 0; x < grid.x; ++x) block.Run(x, y, z);
    }
  }
}

int ThreadIndex() { return Current().current; }
int ThreadCount() { return Current().count; }
int64_t BlockIndex(int axis) { return Current().index[axis]; }

void Barrier() {
  Block& block = Current();
  if (++block.at_barrier < block.count) {
    Yield(block, State::kAtBarrier);
    return;
  }
  block.at_barrier = 0;
  ++block.interval;
  for (int i = 0; i < block.count; ++i) {
    if (block.threads[i]->state == State::kAtBarrier) block.threads[i]->state = State::kReady;
  }
}

bool ArriveAtWarp(void* mine, void*** lanes) {
  Block& block = Current();
  Warp& warp = block.warps[block.current / kWarpThreads];
  *lanes = warp.lanes[warp.interval % 2];
  (*lanes)[block.current % kWarpThreads] = mine;
  if (++warp.arrived == kWarpThreads) return true;
  Yield(block, State::kAtWarp);
  return false;
}

void CompleteWarp() {
  Block& block = Current();
  const int first = block.current / kWarpThreads * kWarpThreads;
  Warp& warp = block.warps[first / kWarpThreads];
  warp.arrived = 0;
  ++warp.interval;
  for (int i = first; i < first + kWarpThreads; ++i) {
    if (block.threads[i]->state == State::kAtWarp) block.threads[i]->state = State::kReady;
  }
}

void* SharedBytes(const void* site, size_t bytes) {
  Block& block = Current();
  const auto [at, inserted] = block.sites.try_emplace(site, block.shared_used);
  if (inserted) {
    block.shared_used += (bytes + 63) / 64 * 64;
    if (block.shared_used > kMaxSharedBytes) {
      Fault("a block wants " + std::to_string(block.shared_used) + " bytes of shared memory");
      std::abort();
    }
  }
  return block.shared + at->second;
}

bool NoteShared(const void* address, size_t bytes, Access access) {
  Block& block = Current();
  const size_t begin = static_cast<const std::byte*>(address) - block.shared;
  for (size_t i = begin; i < begin + bytes; ++i) {
    ByteUse& use = block.uses[i];
    const bool both_atomic = access == Access::kAtomic && use.atomic;
    const char* why = nullptr;
    if (use.pending) why = "under an asynchronous copy";
    if (!both_atomic && Conflicts(block, use.write)) why = "written by another thread";
    if (access != Access::kRead &&
        (Conflicts(block, use.read) || Conflicts(block, use.other_read))) {
      why = "read by another thread";
    }
    if (why != nullptr) {
      Fault(Place(block) + (access == Access::kRead ? " reads" : " writes") + " shared byte " +
            std::to_string(i) + ", " + why + " since the last barrier");
      return false;
    }
    if (access == Access::kRead) {
      const uint32_t warp = static_cast<uint32_t>(block.current) / kWarpThreads;
      if (use.read.thread != kNobody && use.read.thread / kWarpThreads != warp) {
        use.other_read = use.read;
      }
      Note(block, &use.read);
    } else {
      Note(block, &use.write);
      use.atomic = access == Access::kAtomic;
    }
  }
  return true;
}

void CopyLater(void* to, const void* from, size_t bytes) {
  Block& block = Current();
  if (!NoteShared(to, bytes, Access::kWrite)) return;
  const size_t begin = static_cast<std::byte*>(to) - block.shared;
  std::memset(to, 0xcb, bytes);
  for (size_t i = begin; i < begin + bytes; ++i) block.uses[i].pending = true;
  block.threads[block.current]->open_copies.push_back({to, from, bytes});
}

void CommitCopies() {
  Thread& self = *Current().threads[Current().current];
  self.copy_groups.push_back(std::move(self.open_copies));
  self.open_copies.clear();
}

void WaitForCopies(int groups_left) {
  Block& block = Current();
  Thread& self = *block.threads[block.current];
  const int ending = static_cast<int>(self.copy_groups.size()) - groups_left;
  if (ending <= 0) return;
  for (int g = 0; g < ending; ++g) {
    for (const PendingCopy& copy : self.copy_groups[g]) {
      const size_t begin = static_cast<std::byte*>(copy.to) - block.shared;
      for (size_t i = begin; i < begin + copy.bytes; ++i) block.uses[i].pending = false;
      if (NoteShared(copy.to, copy.bytes, Access::kWrite)) {
        std::memcpy(copy.to, copy.from, copy.bytes);
      }
    }
  }
  self.copy_groups.erase(self.copy_groups.begin(), self.copy_groups.begin() + ending);
}

void WorkQueue::Add(std::function<void()> work) {
  if (capturing_) {
    captured_.push_back(std::move(work));
  } else {
    work_.push_back(std::move(work));
  }
}

std::vector<std::function<void()>> WorkQueue::EndCapture() {
  capturing_ = false;
  return std::exchange(captured_, {});
}

void WorkQueue::RunUntil(uint64_t count) {
  if (capturing_) Fault("a stream is waited for while it captures");
  // Work may wait for other queues, never for its own: it is taken out before it runs.
  while (done_ < count && !work_.empty()) {
    const std::function<void()> next = std::move(work_.front());
    work_.pop_front();
    ++done_;
    next();
  }
}

}  // namespace qianyi::cuda::emulation
