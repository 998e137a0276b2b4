// Memory that the system has promised and not made yet, made before it is read into.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace qianyi {

// The system clears memory when it is first used: as slowly as a disk reads, and within each read
// if nobody did it before. Here several threads do it from the beginning on, each piece by one of
// them: whoever reads into a piece that is just being cleared clears it as well, for nothing.
class FreshMemory {
 public:
  static constexpr uint64_t kPieceBytes = 8ull << 20;  // of huge pages: a few milliseconds

  // Begins with `threads` of its own. `begin` outlives it. A system that cannot be asked leaves the
  // clearing to the reads, and all counts as made.
  FreshMemory(std::byte* begin, uint64_t bytes, int threads);
  ~FreshMemory();  // what was not begun stays unmade
  FreshMemory(const FreshMemory&) = delete;
  FreshMemory& operator=(const FreshMemory&) = delete;

  // As many as are worth it on this machine.
  static int Threads();

  // Whether the first `bytes` have been made. Any thread.
  bool Made(uint64_t bytes) const { return bytes <= made_bytes_.load(std::memory_order_acquire); }
  // Makes the next piece that nobody has begun; without one, waits until the first `bytes` are made
  // or it is told to stop. Any thread.
  void Help(uint64_t bytes);
  void Stop();

 private:
  bool MakeNext();

  std::byte* const begin_;
  const uint64_t bytes_;
  std::atomic<uint64_t> next_piece_{0};
  std::atomic<uint64_t> made_bytes_{0};  // without a gap, from the beginning
  std::mutex mutex_;
  std::condition_variable more_;
  std::vector<bool> made_;     // by piece
  uint64_t first_unmade_ = 0;  // piece
  std::atomic<bool> stop_{false};
  std::vector<std::thread> threads_;
};

}  // namespace qianyi
