// The weights of one model on a device that has memory of its own: constants and the blocks that
// stay there, read once, and a ring through which the others pass from host memory, which their
// WeightStore fills. Uploads go on in a stream of copies, ahead of use, and wrap from the last
// block of a step to the first of the next.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "runtime/plan.h"
#include "runtime/storage/weight_store.h"

namespace qianyi {

// Used by the engine's thread, and destroyed before store and backend. Device memory is taken in
// Create only.
class DeviceWeights {
 public:
  // Reads what stays on the device by `plan`. ResourceExhausted when the device has no room,
  // DataLoss as of WeightStore.
  static absl::StatusOr<std::unique_ptr<DeviceWeights>> Create(WeightStore& store,
                                                               const ModelPlan& plan,
                                                               const ReaderFactory& readers,
                                                               const Backend& backend,
                                                               Stream compute);
  ~DeviceWeights();  // waits for what is under way
  DeviceWeights(const DeviceWeights&) = delete;
  DeviceWeights& operator=(const DeviceWeights&) = delete;

  // A constant's values on the device.
  const float* Constant(int tensor) const { return constants_[tensor]; }

  // A block on the device. Work that the compute stream is given while it is held finds it there.
  class Lease {
   public:
    Lease(Lease&& other) noexcept;
    Lease& operator=(Lease&&) = delete;
    ~Lease();
    const PackedRows& rows() const { return rows_; }
    int64_t row_begin() const { return row_begin_; }
    int blocks() const { return blocks_; }

   private:
    friend class DeviceWeights;
    Lease(DeviceWeights* weights, PackedRows rows, int64_t row_begin, int blocks)
        : weights_(weights), rows_(rows), row_begin_(row_begin), blocks_(blocks) {}
    DeviceWeights* weights_;  // null when there is nothing to give back
    PackedRows rows_;
    int64_t row_begin_;
    int blocks_;
  };
  // One at a time. In execution order; asking ahead of it skips what lies between. With a block
  // that stays come those behind it that do, as one.
  absl::StatusOr<Lease> AcquireRun(int tensor, int block);

  // An array on the device: where the matrices of `tensor` and of those behind it are, null of
  // those that are not there. Null when that one, an expert's, is not.
  const std::byte* const* ExpertMatrices(int tensor) const {
    return resident_[tensor].empty() || resident_[tensor][0] == nullptr ? nullptr
                                                                        : matrices_ + tensor;
  }

  // The blocks of a matrix that the host's processor is to multiply with where they lie in the
  // store, in order: none that AcquireRun may be asked for.
  std::span<const int> HostBlocks(int tensor) const { return host_blocks_[tensor]; }

  uint64_t uploaded_bytes() const { return uploaded_bytes_; }  // of blocks that stream

 private:
  struct Slot {  // of the ring
    std::byte* data = nullptr;
    Event uploaded, used;
    bool was_used = false;
  };
  struct Upload {  // in the ring or on its way there
    int index;     // of streamed_
    Slot* slot;
    absl::Status status;
  };
  struct Place {
    int tensor, block;
  };

  DeviceWeights(WeightStore& store, const Backend& backend, Stream compute)
      : store_(store), backend_(backend), compute_(compute) {}
  absl::Status PlaceResident(const ModelPlan& plan, const ReaderFactory& readers);
  absl::Status PlaceConstants();
  absl::Status ListExperts();
  absl::Status MakeRing();
  void Issue();
  void Release();
  const StoredTensor& tensor(int index) const { return store_.file().tensors[index]; }

  WeightStore& store_;
  const Backend& backend_;
  const Stream compute_;
  Stream copies_;
  struct Memory {
    std::byte* data = nullptr;
    uint64_t bytes = 0;
  };
  Memory constant_memory_, resident_memory_, ring_memory_, matrices_memory_;
  const std::byte* const* matrices_ = nullptr;           // on the device, by tensor
  std::vector<const float*> constants_;                  // by tensor
  std::vector<std::vector<const std::byte*>> resident_;  // [tensor][block], null: streams
  std::vector<std::vector<int>> stream_index_;           // [tensor][block] in streamed_
  std::vector<std::vector<int>> host_blocks_;            // by tensor
  std::vector<Place> streamed_;                          // in execution order
  std::vector<Slot> slots_;
  size_t next_slot_ = 0;
  int next_index_ = 0;           // to upload next
  std::vector<Upload> uploads_;  // as many as slots, at most
  // The host's block that was uploaded last from its ring, held until the copy is through.
  std::optional<WeightStore::Lease> held_;
  Event held_until_;
  uint64_t uploaded_bytes_ = 0;
};

}  // namespace qianyi
