// The parallel half of writing a model: blocks are filled on several threads.
#include <algorithm>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "runtime/storage/file_util.h"
#include "runtime/storage/model_layout.h"
#include "runtime/storage/model_writer.h"

namespace qianyi {
namespace {

constexpr int kMaxThreads = 64;
// Whatever the number of processors: a block for each thread, and what filling it takes.
constexpr uint64_t kMaxBufferBytes = 1ull << 30;
constexpr uint64_t kFillBytes = 16ull << 20;

class Work {
 public:
  Work(ModelWriter& writer, const FillBlock& fill, const ProgressFn& progress)
      : writer_(writer), fill_(fill), progress_(progress), order_(FileOrder(writer.model())) {
    for (const BlockIndex& index : order_) {
      const uint64_t bytes = At(index).bytes;
      largest_ = std::max(largest_, bytes);
      total_ += bytes;
    }
  }

  // A worker's whole life.
  void Run() {
    const PageBuffer buffer = AllocatePages(largest_);
    if (buffer == nullptr) {
      return Stop(absl::ResourceExhaustedError("no memory for a block of the model"));
    }
    BlockIndex index;
    while (Next(&index)) {
      if (!writer_.WasWritten(index.tensor, index.block, buffer.get())) {
        absl::Status status = fill_(index.tensor, index.block, buffer.get());
        if (status.ok()) status = writer_.Write(index.tensor, index.block, buffer.get());
        if (!status.ok()) return Stop(status);
      }
      Done(index);
    }
  }

  // How many of `threads` have room for their blocks.
  int ThreadsWithRoom(int threads) const {
    const int most = static_cast<int>(kMaxBufferBytes / (largest_ + kFillBytes));
    return std::clamp(threads, 1, std::clamp(most, 1, kMaxThreads));
  }

  absl::Status status() {
    std::lock_guard lock(mutex_);
    return status_;
  }

 private:
  const Block& At(const BlockIndex& index) const {
    return writer_.model().tensors[index.tensor].blocks[index.block];
  }

  bool Next(BlockIndex* index) {
    std::lock_guard lock(mutex_);
    if (!status_.ok() || next_ == order_.size()) return false;
    *index = order_[next_++];
    return true;
  }

  void Stop(const absl::Status& status) {
    std::lock_guard lock(mutex_);
    status_.Update(status);
  }

  void Done(const BlockIndex& index) {
    std::lock_guard lock(mutex_);
    done_ += At(index).bytes;
    if (progress_) {
      progress_({.done_bytes = done_,
                 .total_bytes = total_,
                 .tensor = writer_.model().tensors[index.tensor].spec.name,
                 .note = {}});
    }
  }

  ModelWriter& writer_;
  const FillBlock& fill_;
  const ProgressFn& progress_;
  const std::vector<BlockIndex> order_;
  uint64_t largest_ = 0;
  uint64_t total_ = 0;

  std::mutex mutex_;  // guards all below
  size_t next_ = 0;
  uint64_t done_ = 0;
  absl::Status status_;
};

}  // namespace

absl::Status WriteModel(ModelWriter& writer, int threads, const FillBlock& fill,
                        const ProgressFn& progress) {
  Work work(writer, fill, progress);
  std::vector<std::thread> helpers;
  try {
    for (int i = 1; i < work.ThreadsWithRoom(threads); ++i) {
      helpers.emplace_back([&work] { work.Run(); });
    }
  } catch (const std::system_error&) {
    // The machine grants no more threads: those there are suffice.
  }
  work.Run();
  for (std::thread& helper : helpers) helper.join();
  const absl::Status status = work.status();
  return status.ok() ? writer.Finish() : status;
}

}  // namespace qianyi
