#include "runtime/storage/fresh_memory.h"

#include <pthread.h>
#include <sys/mman.h>

#include <algorithm>

namespace qianyi {
namespace {

constexpr int kMostThreads = 8;  // more than a memory's worth of clearing

// False where the system does not know how: before Linux 5.14.
bool Make(std::byte* begin, uint64_t bytes) {
#ifdef MADV_POPULATE_WRITE
  return madvise(begin, bytes, MADV_POPULATE_WRITE) == 0;
#else
  return false;
#endif
}

}  // namespace

int FreshMemory::Threads() {
  return std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 1, kMostThreads);
}

FreshMemory::FreshMemory(std::byte* begin, uint64_t bytes, int threads)
    : begin_(begin), bytes_(bytes), made_((bytes + kPieceBytes - 1) / kPieceBytes) {
  for (int i = 0; i < threads && bytes > 0; ++i) {
    threads_.emplace_back([this] {
      pthread_setname_np(pthread_self(), "maker");
      while (!stop_ && MakeNext()) {
      }
    });
  }
}

FreshMemory::~FreshMemory() {
  Stop();
  for (std::thread& thread : threads_) thread.join();
}

void FreshMemory::Stop() {
  std::lock_guard lock(mutex_);
  stop_ = true;
  more_.notify_all();
}

bool FreshMemory::MakeNext() {
  const uint64_t piece = next_piece_.fetch_add(1, std::memory_order_relaxed);
  if (piece >= made_.size()) return false;
  const uint64_t at = piece * kPieceBytes;
  const bool possible = Make(begin_ + at, std::min(kPieceBytes, bytes_ - at));
  std::lock_guard lock(mutex_);
  made_[piece] = true;
  while (first_unmade_ < made_.size() && (made_[first_unmade_] || !possible)) ++first_unmade_;
  const uint64_t made_bytes = std::min(bytes_, first_unmade_ * kPieceBytes);
  made_bytes_.store(std::max(made_bytes, made_bytes_.load(std::memory_order_relaxed)),
                    std::memory_order_release);
  more_.notify_all();
  return possible;
}

void FreshMemory::Help(uint64_t bytes) {
  if (MakeNext()) return;
  std::unique_lock lock(mutex_);
  more_.wait(lock, [&] { return stop_ || Made(bytes); });
}

}  // namespace qianyi
