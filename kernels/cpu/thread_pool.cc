#include "kernels/cpu/thread_pool.h"

#include <pthread.h>

#include <algorithm>
#include <cstdlib>
#include <system_error>

namespace qianyi::cpu {
namespace {

constexpr uint32_t kOpen = 1u << 31;
constexpr int kSpins = 2000;  // tens of microseconds: the gap between two kernels

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

std::unique_ptr<ThreadPool> ThreadPool::Create(int threads, size_t scratch_bytes) {
  threads = std::max(threads, 1);
  std::unique_ptr<ThreadPool> pool(new ThreadPool);
  pool->scratch_bytes_ = (scratch_bytes + 63) / 64 * 64;
  if (scratch_bytes > 0) {
    pool->scratch_ =
        static_cast<std::byte*>(std::aligned_alloc(64, pool->scratch_bytes_ * threads));
    if (pool->scratch_ == nullptr) return nullptr;
  }
  pool->workers_.reserve(threads - 1);
  try {
    for (int worker = 1; worker < threads; ++worker) {
      pool->workers_.emplace_back([raw = pool.get(), worker] { raw->WorkerLoop(worker); });
    }
  } catch (const std::system_error&) {
    // The limit on threads is reached: those that started do all the work.
  }
  pool->Use(threads);
  return pool;
}

ThreadPool::~ThreadPool() {
  stop_.store(true, std::memory_order_relaxed);
  Use(static_cast<int>(workers_.size()) + 1);
  job_.fetch_add(1, std::memory_order_release);
  job_.notify_all();
  for (std::thread& worker : workers_) worker.join();
  std::free(scratch_);
}

void ThreadPool::Use(int threads) {
  active_.store(std::clamp(threads, 1, static_cast<int>(workers_.size()) + 1),
                std::memory_order_release);
  active_.notify_all();
}

void ThreadPool::RunJob(int64_t count, int64_t grain, const void* context, Invoke invoke) {
  invoke_ = invoke;
  context_ = context;
  count_ = count;
  grain_ = grain;
  next_.store(0, std::memory_order_relaxed);
  joined_.store(kOpen, std::memory_order_release);
  job_.fetch_add(1, std::memory_order_release);
  job_.notify_all();

  RunChunks(0);

  // No chunk is left. A worker that has not woken by now cannot join any more; one that
  // is inside must finish before the job's description may change.
  joined_.fetch_and(~kOpen, std::memory_order_acq_rel);
  for (int spins = 0; joined_.load(std::memory_order_acquire) != 0; ++spins) {
    if (spins < kSpins) {
      Pause();
    } else {
      std::this_thread::yield();
    }
  }
}

void ThreadPool::RunChunks(int worker) {
  for (;;) {
    const int64_t begin = next_.fetch_add(grain_, std::memory_order_relaxed);
    if (begin >= count_) return;
    invoke_(context_, begin, std::min(begin + grain_, count_), worker);
  }
}

bool ThreadPool::Join() {
  uint32_t state = joined_.load(std::memory_order_relaxed);
  while ((state & kOpen) != 0) {
    if (joined_.compare_exchange_weak(state, state + 1, std::memory_order_acq_rel,
                                      std::memory_order_relaxed)) {
      return true;
    }
  }
  return false;
}

uint32_t ThreadPool::WaitForJob(uint32_t seen) {
  for (int spins = 0; spins < kSpins; ++spins) {
    const uint32_t job = job_.load(std::memory_order_acquire);
    if (job != seen) return job;
    Pause();
  }
  job_.wait(seen, std::memory_order_acquire);
  return job_.load(std::memory_order_acquire);
}

void ThreadPool::WorkerLoop(int worker) {
  pthread_setname_np(pthread_self(), "kernels");
  uint32_t seen = 0;
  for (;;) {
    if (const int active = active_.load(std::memory_order_acquire); worker >= active) {
      active_.wait(active, std::memory_order_acquire);
      continue;
    }
    seen = WaitForJob(seen);
    if (stop_.load(std::memory_order_relaxed)) return;
    if (worker >= threads() || !Join()) continue;
    RunChunks(worker);
    joined_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace qianyi::cpu
