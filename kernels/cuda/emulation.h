// A GPU in plain C++: blocks run one after the other, the threads of a block are fibers that
// change at barriers and warp operations only. It watches what hardware does not: accesses
// outside an array, of an array that another thread uses in the same interval between barriers,
// of memory that is not the device's, and barriers that a thread leaves out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <vector>

namespace qianyi::cuda::emulation {

inline constexpr int kWarpThreads = 32;
inline constexpr size_t kMaxSharedBytes = 48 << 10;  // of a block, without asking for more

// What went wrong in kernels. Without a collector the first fault ends the process with a
// message; with one, faulty reads give zeros and faulty writes are dropped. One at a time.
class FaultCollector {
 public:
  FaultCollector();
  ~FaultCollector();
  FaultCollector(const FaultCollector&) = delete;
  FaultCollector& operator=(const FaultCollector&) = delete;
  const std::vector<std::string>& faults() const { return faults_; }

 private:
  friend void Fault(const std::string& what);
  std::vector<std::string> faults_;
};
void Fault(const std::string& what);

// Runs body(context) in every thread of grid_x × grid_y × grid_z blocks.
struct GridSize {
  int64_t x = 1, y = 1, z = 1;
};
void RunGrid(GridSize grid, int threads, const void* context, void (*body)(const void*));

// Of the running thread.
int ThreadIndex();
int ThreadCount();
int64_t BlockIndex(int axis);
void Barrier();
// Waits for the warp; true in the one lane that came last, while the others still wait. The
// others are let go by CompleteWarp(). lanes[i] is what lane i gave.
bool ArriveAtWarp(void* mine, void*** lanes);
void CompleteWarp();

// Memory of the running block that belongs to `site`, an address that is the same in all threads.
void* SharedBytes(const void* site, size_t bytes);
// Notes an access of shared memory; false when it must not happen.
enum class Access : uint8_t { kRead, kWrite, kAtomic };
bool NoteShared(const void* address, size_t bytes, Access access);
// Copies that end at WaitForCopies: until then nobody may touch `to`.
void CopyLater(void* to, const void* from, size_t bytes);
void CommitCopies();
void WaitForCopies(int groups_left);

// Memory of the device. What Allocate returns cannot be touched by the host; kernels reach it
// through HostAddress. 2 MiB aligned and zeroed; null when there is no room.
void* Allocate(size_t bytes);
// The same, but of the host's memory that is mapped for the device, and counted as such.
void* AllocateMapped(size_t bytes);
void Free(void* data, size_t bytes);
uint64_t AllocatedBytes();
uint64_t MappedBytes();
// Where `bytes` of device memory at `data` really are. Other memory is a fault when memory is
// strict, else itself. Null after a fault.
void* HostAddress(const void* data, size_t bytes);
// Strict: kernels may touch nothing but what Allocate and AllocateMapped gave. Off at first.
void SetStrictMemory(bool strict);

// Work in order, done as late as it may be: when somebody waits for it. So a wait that is missing
// shows in every run.
class WorkQueue {
 public:
  void Add(std::function<void()> work);
  uint64_t added() const { return done_ + work_.size(); }
  void RunUntil(uint64_t count);
  void RunAll() { RunUntil(added()); }
  // Between the two, work that is added is kept instead, for who captures.
  void BeginCapture() { capturing_ = true; }
  std::vector<std::function<void()>> EndCapture();

 private:
  std::deque<std::function<void()>> work_;
  std::vector<std::function<void()>> captured_;
  bool capturing_ = false;
  uint64_t done_ = 0;
};

}  // namespace qianyi::cuda::emulation
