// The workers of one CPU stream. The caller of Run() is worker 0; the others spin for a
// few microseconds between jobs and then sleep, so an idle stream uses no processor time.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <thread>
#include <type_traits>
#include <vector>

namespace qianyi::cpu {

class ThreadPool {
 public:
  // Starts threads - 1 workers, each with `scratch_bytes` of 64-byte aligned memory. When
  // the system refuses a thread the pool makes do with fewer: results are the same.
  // Null when there is no memory for the scratch.
  static std::unique_ptr<ThreadPool> Create(int threads, size_t scratch_bytes);
  ~ThreadPool();

  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  // That take part in jobs: all of them, or as many as Use said.
  int threads() const { return active_.load(std::memory_order_relaxed); }
  // From the next job on, at least 1 and at most all; the others sleep. For the caller of Run.
  void Use(int threads);

  // Memory of `worker` for the duration of a job.
  std::byte* scratch(int worker) const { return scratch_ + scratch_bytes_ * worker; }

  // Calls work(begin, end, worker) over chunks of at most `grain` that cover [0, count)
  // and returns when all are done. Workers take chunks as they come, so `work` must give
  // the same result however the range is cut. One caller at a time, not reentrant;
  // allocates nothing.
  template <typename Work>
  void Run(int64_t count, int64_t grain, const Work& work) {
    if (threads() == 1 || count <= grain) {
      if (count > 0) work(int64_t{0}, count, 0);
      return;
    }
    RunJob(count, grain, &work, [](const void* context, int64_t begin, int64_t end, int worker) {
      (*static_cast<const Work*>(context))(begin, end, worker);
    });
  }

 private:
  using Invoke = void (*)(const void* context, int64_t begin, int64_t end, int worker);

  ThreadPool() = default;
  void RunJob(int64_t count, int64_t grain, const void* context, Invoke invoke);
  void RunChunks(int worker);
  void WorkerLoop(int worker);
  uint32_t WaitForJob(uint32_t seen);
  bool Join();

  // The job: written while it is closed and nobody has joined it.
  Invoke invoke_ = nullptr;
  const void* context_ = nullptr;
  int64_t count_ = 0;
  int64_t grain_ = 1;

  std::atomic<int> active_{1};                   // workers from this number on sleep on it
  alignas(64) std::atomic<int64_t> next_{0};     // first index nobody has taken
  alignas(64) std::atomic<uint32_t> job_{0};     // changes when a job opens; workers sleep on it
  alignas(64) std::atomic<uint32_t> joined_{0};  // kOpen | number of workers inside the job
  std::atomic<bool> stop_{false};

  std::vector<std::thread> workers_;
  std::byte* scratch_ = nullptr;
  size_t scratch_bytes_ = 0;
};

}  // namespace qianyi::cpu
