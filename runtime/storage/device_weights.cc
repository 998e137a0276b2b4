#include "runtime/storage/device_weights.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_format.h"
#include "runtime/memory_size.h"
#include "runtime/storage/block_reads.h"
#include "runtime/storage/padded.h"

namespace qianyi {
namespace {

constexpr uint64_t kBlockAlignment = 256;  // of a block on the device
constexpr size_t kMostSlots = 16;

uint64_t Aligned(uint64_t bytes) {
  return (bytes + kBlockAlignment - 1) / kBlockAlignment * kBlockAlignment;
}

bool IsSwept(const StoredTensor& tensor) {
  if (tensor.spec.kept) return false;
  return tensor.spec.use == TensorUse::kMatrix ||
         (tensor.spec.use == TensorUse::kEmbedding && tensor.spec.tied);
}

bool IsExpert(const StoredTensor& tensor) {
  return !tensor.spec.kept && tensor.spec.use == TensorUse::kExpert;
}

bool IsConstant(const StoredTensor& tensor) {
  return !tensor.spec.kept && tensor.spec.use == TensorUse::kConstant;
}

// Pinned memory for the length of a scope.
class Staging {
 public:
  Staging(const Backend& backend, uint64_t bytes)
      : backend_(backend),
        bytes_(bytes),
        data_(static_cast<std::byte*>(bytes == 0 ? nullptr : backend.alloc_host(bytes))) {}
  ~Staging() {
    if (data_ != nullptr) backend_.free_host(data_, bytes_);
  }
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;
  std::byte* data() const { return data_; }

 private:
  const Backend& backend_;
  const uint64_t bytes_;
  std::byte* const data_;
};

absl::Status NoRoom(uint64_t bytes, const char* what) {
  return absl::ResourceExhaustedError(
      absl::StrFormat("the device has no %s for %s; lower --device-memory to what others leave of "
                      "it, or --context or --batch",
                      FormatSize(bytes), what));
}

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceWeights>> DeviceWeights::Create(WeightStore& store,
                                                                     const ModelPlan& plan,
                                                                     const ReaderFactory& readers,
                                                                     const Backend& backend,
                                                                     Stream compute) {
  std::unique_ptr<DeviceWeights> weights(new DeviceWeights(store, backend, compute));
  weights->copies_ = backend.create_stream(0);
  weights->held_until_ = backend.create_event();
  absl::Status status = weights->PlaceConstants();
  if (status.ok()) status = weights->PlaceResident(plan, readers);
  if (status.ok()) status = weights->ListExperts();
  if (status.ok()) status = weights->MakeRing();
  if (!status.ok()) return status;
  return weights;
}

DeviceWeights::~DeviceWeights() {
  backend_.synchronize(copies_);
  backend_.synchronize(compute_);
  held_.reset();
  for (const Slot& slot : slots_) {
    backend_.destroy_event(slot.uploaded);
    backend_.destroy_event(slot.used);
  }
  backend_.destroy_event(held_until_);
  backend_.destroy_stream(copies_);
  for (const Memory& memory :
       {constant_memory_, resident_memory_, ring_memory_, matrices_memory_}) {
    if (memory.data != nullptr) backend_.free(memory.data, memory.bytes);
  }
}

absl::Status DeviceWeights::PlaceConstants() {
  const std::vector<StoredTensor>& tensors = store_.file().tensors;
  uint64_t bytes = 0;
  for (const StoredTensor& tensor : tensors) {
    if (IsConstant(tensor)) bytes += Aligned(tensor.blocks[0].bytes);
  }
  constants_.resize(tensors.size());
  if (bytes == 0) return absl::OkStatus();
  const Staging staging(backend_, bytes);
  constant_memory_ = {static_cast<std::byte*>(backend_.alloc(bytes)), bytes};
  if (staging.data() == nullptr || constant_memory_.data == nullptr) {
    return NoRoom(bytes, "norms and biases");
  }
  uint64_t at = 0;
  for (size_t t = 0; t < tensors.size(); ++t) {
    if (!IsConstant(tensors[t])) continue;
    std::memcpy(staging.data() + at, store_.Constant(static_cast<int>(t)),
                tensors[t].blocks[0].bytes);
    constants_[t] = reinterpret_cast<const float*>(constant_memory_.data + at);
    at += Aligned(tensors[t].blocks[0].bytes);
  }
  backend_.upload(constant_memory_.data, staging.data(), bytes, copies_);
  backend_.synchronize(copies_);
  return absl::OkStatus();
}

absl::Status DeviceWeights::PlaceResident(const ModelPlan& plan, const ReaderFactory& readers) {
  const ModelFile& file = store_.file();
  uint64_t bytes = 0, largest = 0;
  resident_.resize(file.tensors.size());
  stream_index_.resize(file.tensors.size());
  host_blocks_.resize(file.tensors.size());
  for (size_t t = 0; t < file.tensors.size(); ++t) {
    const size_t blocks = file.tensors[t].blocks.size();
    resident_[t].resize(blocks);
    stream_index_[t].assign(blocks, -1);
    if (!IsSwept(file.tensors[t]) && !IsExpert(file.tensors[t])) continue;
    for (size_t b = 0; b < blocks; ++b) {
      if (plan.tiers[t][b] == Tier::kDevice) {
        bytes += Aligned(file.tensors[t].blocks[b].bytes);
        largest = std::max(largest, Padded(file.tensors[t].blocks[b].bytes));
      } else if (IsExpert(file.tensors[t])) {
        continue;  // the host's, see ExpertCache
      } else if (plan.tiers[t][b] == Tier::kHostRows) {
        host_blocks_[t].push_back(static_cast<int>(b));
      } else {
        stream_index_[t][b] = static_cast<int>(streamed_.size());
        streamed_.push_back({static_cast<int>(t), static_cast<int>(b)});
      }
    }
  }
  if (bytes == 0) return absl::OkStatus();
  resident_memory_ = {static_cast<std::byte*>(backend_.alloc(bytes)), bytes};
  const Staging staging(backend_, largest);
  if (staging.data() == nullptr || resident_memory_.data == nullptr) {
    return NoRoom(bytes, "resident weights");
  }
  absl::StatusOr<BlockReads> reads = OpenBlockReads(file, readers);
  if (!reads.ok()) return reads.status();
  uint64_t at = 0;
  for (size_t t = 0; t < file.tensors.size(); ++t) {
    at = Aligned(at);  // the blocks of one matrix stand without gaps, see AcquireRun
    for (size_t b = 0; b < resident_[t].size(); ++b) {
      const bool has_tier = IsSwept(file.tensors[t]) || IsExpert(file.tensors[t]);
      if (!has_tier || plan.tiers[t][b] != Tier::kDevice) continue;
      const Block& block = file.tensors[t].blocks[b];
      absl::Status status = ReadBlock(file, file.tensors[t], block, *reads, staging.data());
      if (!status.ok()) return status;
      resident_[t][b] = resident_memory_.data + at;
      backend_.upload(resident_memory_.data + at, staging.data(), block.bytes, copies_);
      backend_.synchronize(copies_);
      at += block.bytes;
    }
  }
  return absl::OkStatus();
}

absl::Status DeviceWeights::ListExperts() {
  const std::vector<StoredTensor>& tensors = store_.file().tensors;
  const uint64_t bytes = tensors.size() * sizeof(const std::byte*);
  const auto on_device = [this](const StoredTensor& tensor) {
    const size_t t = &tensor - store_.file().tensors.data();
    return IsExpert(tensor) && resident_[t][0] != nullptr;
  };
  if (std::none_of(tensors.begin(), tensors.end(), on_device)) return absl::OkStatus();
  const Staging staging(backend_, bytes);
  matrices_memory_ = {static_cast<std::byte*>(backend_.alloc(bytes)), bytes};
  if (staging.data() == nullptr || matrices_memory_.data == nullptr) {
    return NoRoom(bytes, "the list of experts");
  }
  const std::byte** const list = reinterpret_cast<const std::byte**>(staging.data());
  for (size_t t = 0; t < tensors.size(); ++t) {
    list[t] = on_device(tensors[t]) ? resident_[t][0] : nullptr;
  }
  backend_.upload(matrices_memory_.data, staging.data(), bytes, copies_);
  backend_.synchronize(copies_);
  matrices_ = reinterpret_cast<const std::byte* const*>(matrices_memory_.data);
  return absl::OkStatus();
}

absl::Status DeviceWeights::MakeRing() {
  if (streamed_.empty()) return absl::OkStatus();
  uint64_t largest = 0;
  for (const Place& place : streamed_) {
    largest = std::max(largest, Aligned(tensor(place.tensor).blocks[place.block].bytes));
  }
  slots_.resize(std::clamp<size_t>(kDeviceRingBytes / largest, 2, kMostSlots));
  uploads_.reserve(slots_.size());
  ring_memory_ = {static_cast<std::byte*>(backend_.alloc(slots_.size() * largest)),
                  slots_.size() * largest};
  if (ring_memory_.data == nullptr) return NoRoom(ring_memory_.bytes, "the ring of weights");
  for (size_t i = 0; i < slots_.size(); ++i) {
    slots_[i] = {ring_memory_.data + i * largest, backend_.create_event(), backend_.create_event()};
  }
  return absl::OkStatus();
}

// Uploads the next block into the next slot, which must be free.
void DeviceWeights::Issue() {
  const int index = next_index_;
  next_index_ = (index + 1) % static_cast<int>(streamed_.size());
  Slot* const slot = &slots_[next_slot_];
  Upload& upload = uploads_.emplace_back(Upload{index, slot, absl::OkStatus()});
  // The host's ring may have room for two blocks only: one is copied, one is read.
  if (held_.has_value()) backend_.await(held_until_);
  held_.reset();
  const Place place = streamed_[index];
  absl::StatusOr<WeightStore::Lease> lease = store_.Acquire(place.tensor, place.block);
  if (!lease.ok()) {
    upload.status = lease.status();
    return;
  }
  next_slot_ = (next_slot_ + 1) % slots_.size();
  const uint64_t bytes = tensor(place.tensor).blocks[place.block].bytes;
  if (slot->was_used) backend_.wait(copies_, slot->used);
  backend_.upload(slot->data, lease->rows().data, bytes, copies_);
  backend_.record(slot->uploaded, copies_);
  uploaded_bytes_ += bytes;
  if (!lease->passing()) return;
  backend_.record(held_until_, copies_);
  held_.emplace(*std::move(lease));
}

absl::StatusOr<DeviceWeights::Lease> DeviceWeights::AcquireRun(int tensor_index, int block) {
  const StoredTensor& stored = tensor(tensor_index);
  PackedRows rows = {resident_[tensor_index][block], stored.format, stored.blocks[block].rows,
                     stored.spec.cols()};
  const int64_t row_begin = stored.blocks[block].row_begin;
  const int index = stream_index_[tensor_index][block];
  if (index < 0) {
    // Blocks of whole panels, side by side, are one.
    int next = block + 1;
    for (; next < static_cast<int>(stored.blocks.size()); ++next) {
      const Block& before = stored.blocks[next - 1];
      if (before.rows % kPanelRows != 0 ||
          resident_[tensor_index][next] != resident_[tensor_index][next - 1] + before.bytes) {
        break;
      }
      rows.rows += stored.blocks[next].rows;
    }
    return Lease(nullptr, rows, row_begin, next - block);
  }
  // What was uploaded and is not wanted now gives its slot to later copies, which wait for it.
  while (!uploads_.empty() && uploads_.front().index != index) uploads_.erase(uploads_.begin());
  if (uploads_.empty()) {
    next_index_ = index;
    Issue();
  }
  Upload& upload = uploads_.front();
  if (!upload.status.ok()) {
    const absl::Status status = upload.status;
    uploads_.clear();  // what follows is asked for anew
    return status;
  }
  backend_.wait(compute_, upload.slot->uploaded);
  rows.data = upload.slot->data;
  return Lease(this, rows, row_begin, 1);
}

void DeviceWeights::Release() {
  Slot* const slot = uploads_.front().slot;
  backend_.record(slot->used, compute_);
  slot->was_used = true;
  uploads_.erase(uploads_.begin());
  while (uploads_.size() < slots_.size() && uploads_.size() < streamed_.size() &&
         (uploads_.empty() || uploads_.back().status.ok())) {
    Issue();
  }
}

DeviceWeights::Lease::Lease(Lease&& other) noexcept
    : weights_(std::exchange(other.weights_, nullptr)),
      rows_(other.rows_),
      row_begin_(other.row_begin_),
      blocks_(other.blocks_) {}

DeviceWeights::Lease::~Lease() {
  if (weights_ != nullptr) weights_->Release();
}

}  // namespace qianyi
