// Keeps the weights of one model moving along the tiers, ahead of use.
//
// Resident blocks have a place of their own and are read once, in execution order. All others pass
// through a ring, read in the same order and wrapping from the last to the first, so that the next
// step's first layers are in flight while the last ones of this step are computed.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "runtime/plan.h"
#include "runtime/storage/block_loader.h"
#include "runtime/storage/expert_cache.h"
#include "runtime/storage/gather_cache.h"
#include "runtime/storage/model_file.h"
#include "runtime/storage/reader.h"
#include "runtime/storage/weight_store_stats.h"

namespace qianyi {

// Opens the reader of file `index`; called twice per file (the sweep and the gathers each
// have their own).
using ReaderFactory = std::function<absl::StatusOr<std::unique_ptr<Reader>>(int index)>;

// Blocks read one at a time, with all of a model's files open.
absl::StatusOr<BlockReads> OpenBlockReads(const ModelFile& file, const ReaderFactory& readers);
// Reads a block to `to`, which has room for its whole pages, and checks it. DataLoss names it.
absl::Status ReadBlock(const ModelFile& file, const StoredTensor& tensor, const Block& block,
                       BlockReads& reads, std::byte* to);

// One consumer thread (the engine's); stats() from any.
class WeightStore {
 public:
  // Reads the constants and starts the loader. All is in host memory, of which a device of
  // `backend` may copy; blocks that the plan has on a device are left out. `plan` says which blocks
  // are resident and how large ring and gather cache are; nothing more is ever allocated.
  static absl::StatusOr<std::unique_ptr<WeightStore>> Open(ModelFile file, const ModelPlan& plan,
                                                           const Backend& backend,
                                                           const ReaderFactory& readers);
  // The readers of the files that `file` names, on disk or invented.
  static ReaderFactory FileReaders(const ModelFile& file, ReaderOptions options);
  ~WeightStore();

  const ModelFile& file() const { return file_; }
  // A constant's values, row-major; null when `tensor` is none.
  const float* Constant(int tensor) const;

  // Blocks in memory, held until destruction.
  class Lease {
   public:
    Lease(Lease&& other) noexcept;
    Lease& operator=(Lease&&) = delete;
    ~Lease();
    const PackedRows& rows() const { return rows_; }
    int64_t row_begin() const { return row_begin_; }
    int blocks() const { return blocks_; }
    // Whether the place of any is needed for others once it is given back.
    bool passing() const { return passing_ > 0; }

   private:
    friend class WeightStore;
    Lease(WeightStore* store, BlockLoader::Held held, PackedRows rows, int64_t row_begin);
    void Count(const BlockLoader::Held& held);
    WeightStore* store_;   // null when there is nothing to give back
    uint64_t ticket_ = 0;  // of the first that passes
    int passing_ = 0;
    PackedRows rows_;
    int64_t row_begin_;
    int blocks_ = 1;
  };

  // Waits for a block. Asking in execution order never waits longer than the disk needs;
  // asking ahead of it skips what lies between. DataLoss names file, tensor and offset when the
  // block cannot be read or its checksum is wrong; the store stays usable.
  absl::StatusOr<Lease> Acquire(int tensor, int block);
  // The same with those behind it that have come, in one product (PackedRows::blocks, valid until
  // the next call): shorter ones leave threads waiting for each other.
  absl::StatusOr<Lease> AcquireRun(int tensor, int block);

  // Experts of a layer, in the order ExpertCache says; null when the model has none. The blocks
  // of the expert that Next gave last are there for Acquire without waiting.
  ExpertCache* experts() { return experts_.get(); }

  // out[t, :] = row ids[t] of an embedding, block by block. Blocks that are not resident are read
  // into a small cache, least recently used first out.
  absl::Status Gather(int tensor, std::span<const int32_t> ids, Tensor out, Stream stream);

  // How much of the plan's lendable bytes weights may use from now on; see BlockLoader::Lend.
  void Lend(uint64_t bytes) { loader_->Lend(bytes); }

  WeightStoreStats stats() const;
  // Hears of the consumer's waits; null: nobody does. Outlives them.
  void Observe(WaitObserver* observer);

 private:
  struct Memory {  // of the backend, given back with the store
    const Backend* backend = nullptr;
    std::byte* data = nullptr;
    uint64_t bytes = 0;
    absl::Status Allocate(const Backend& from, uint64_t size, std::string_view purpose);
    ~Memory();
  };
  struct RowWish {  // one row to gather, by block
    int block;
    int32_t row;
    int32_t target;
  };

  WeightStore(ModelFile file, const Backend& backend) : file_(std::move(file)), backend_(backend) {}
  absl::Status ReadConstants(const ReaderFactory& readers);
  absl::Status Place(const ModelPlan& plan, const ReaderFactory& readers);
  absl::Status PlaceExperts(const ModelPlan& plan, const ReaderFactory& readers);
  BlockLoader::Held AcquireIfHere(int tensor, int block);
  PackedRows RowsAt(int tensor, int block, const std::byte* data) const;
  absl::Status GatherSome(int tensor, std::span<GatherCache::Wish> blocks,
                          std::span<const RowWish> rows, Tensor out, Stream stream);

  const ModelFile file_;
  const Backend& backend_;
  std::vector<std::vector<float>> constants_;  // by tensor
  std::vector<int> first_block_;               // tensor -> number of its first block
  std::vector<int> sweep_index_;               // by block number; -1 = not in the sweep
  std::vector<int> expert_part_;               // tensor -> first of its parts of its expert
  Memory resident_, ring_, lent_, gather_memory_, expert_memory_;
  std::unique_ptr<GatherCache> gathers_;
  std::unique_ptr<BlockLoader> loader_;
  std::unique_ptr<ExpertCache> experts_;
  int most_passing_ = 1;               // blocks of a run that pass: the others are read meanwhile
  std::vector<const std::byte*> run_;  // where the blocks of the last run are
  // Scratch of Gather, kept so that steps do not allocate.
  std::vector<RowWish> rows_;
  std::vector<GatherCache::Wish> wishes_;
  std::vector<int32_t> source_rows_, targets_;
};

}  // namespace qianyi
