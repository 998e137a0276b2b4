#include "runtime/storage/weight_store.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "runtime/memory_size.h"
#include "runtime/storage/padded.h"
#include "runtime/storage/synth.h"
#include "xxhash.h"

namespace qianyi {
namespace {

absl::StatusOr<std::vector<std::unique_ptr<Reader>>> OpenAll(const ModelFile& file,
                                                             const ReaderFactory& readers) {
  std::vector<std::unique_ptr<Reader>> opened;
  for (size_t i = 0; i < file.files.size(); ++i) {
    absl::StatusOr<std::unique_ptr<Reader>> reader = readers(static_cast<int>(i));
    if (!reader.ok()) return reader.status();
    opened.push_back(*std::move(reader));
  }
  return opened;
}

std::string BlockName(const ModelFile& file, const StoredTensor& tensor, const Block& block) {
  return absl::StrFormat("rows %d..%d of %s in %s", block.row_begin,
                         block.row_begin + block.rows - 1, tensor.spec.name,
                         file.files[block.file]);
}

}  // namespace

absl::StatusOr<BlockReads> OpenBlockReads(const ModelFile& file, const ReaderFactory& readers) {
  absl::StatusOr<std::vector<std::unique_ptr<Reader>>> opened = OpenAll(file, readers);
  if (!opened.ok()) return opened.status();
  return BlockReads(*std::move(opened));
}

absl::Status ReadBlock(const ModelFile& file, const StoredTensor& tensor, const Block& block,
                       BlockReads& reads, std::byte* to) {
  reads.Add({0, block.file, block.offset, Padded(block.bytes), to});
  absl::Status status;
  while (!reads.idle()) {
    if (auto done = reads.Wait()) status.Update(done->status);
  }
  if (!status.ok()) {
    return absl::DataLossError(
        absl::StrCat("cannot read ", BlockName(file, tensor, block), ": ", status.message()));
  }
  if (block.checksum != 0 && XXH3_64bits(to, block.bytes) != block.checksum) {
    return absl::DataLossError(absl::StrCat(
        BlockName(file, tensor, block),
        " does not match its checksum: the file is damaged; convert or download it again"));
  }
  return absl::OkStatus();
}

absl::Status WeightStore::Memory::Allocate(const Backend& from, uint64_t size,
                                           std::string_view purpose) {
  if (size == 0) return absl::OkStatus();
  data = static_cast<std::byte*>(from.alloc_host(size));
  if (data == nullptr) {
    return absl::ResourceExhaustedError(absl::StrFormat(
        "the system has no %s for %s; lower --host-memory", FormatSize(size), purpose));
  }
  backend = &from;
  bytes = size;
  return absl::OkStatus();
}

WeightStore::Memory::~Memory() {
  if (data != nullptr) backend->free_host(data, bytes);
}

ReaderFactory WeightStore::FileReaders(const ModelFile& file, ReaderOptions options) {
  return [file, options](int index) { return OpenModelReader(file, index, options); };
}

absl::StatusOr<std::unique_ptr<WeightStore>> WeightStore::Open(ModelFile file,
                                                               const ModelPlan& plan,
                                                               const Backend& backend,
                                                               const ReaderFactory& readers) {
  std::unique_ptr<WeightStore> store(new WeightStore(std::move(file), backend));
  absl::Status status = store->ReadConstants(readers);
  if (status.ok()) status = store->Place(plan, readers);
  if (status.ok()) status = store->PlaceExperts(plan, readers);
  if (!status.ok()) return status;
  return store;
}

WeightStore::~WeightStore() = default;

absl::Status WeightStore::ReadConstants(const ReaderFactory& readers) {
  absl::StatusOr<BlockReads> reads = OpenBlockReads(file_, readers);
  if (!reads.ok()) return reads.status();
  constants_.resize(file_.tensors.size());
  uint64_t largest = 0;
  for (const StoredTensor& tensor : file_.tensors) {
    if (tensor.spec.use == TensorUse::kConstant && !tensor.spec.kept) {
      largest = std::max(largest, Padded(tensor.blocks[0].bytes));
    }
  }
  Memory buffer;
  if (absl::Status status = buffer.Allocate(backend_, largest, "reading constants"); !status.ok()) {
    return status;
  }
  for (size_t t = 0; t < file_.tensors.size(); ++t) {
    const StoredTensor& tensor = file_.tensors[t];
    if (tensor.spec.use != TensorUse::kConstant || tensor.spec.kept) continue;
    const Block& block = tensor.blocks[0];
    absl::Status status = ReadBlock(file_, tensor, block, *reads, buffer.data);
    if (!status.ok()) return status;
    constants_[t].resize(block.bytes / sizeof(float));
    std::memcpy(constants_[t].data(), buffer.data, block.bytes);
  }
  return absl::OkStatus();
}

absl::Status WeightStore::Place(const ModelPlan& plan, const ReaderFactory& readers) {
  std::vector<SweepBlock> sweep;
  uint64_t resident_bytes = 0;
  uint64_t largest_gather = 0, largest_passing = 0;
  int blocks = 0;
  for (size_t t = 0; t < file_.tensors.size(); ++t) {
    const StoredTensor& tensor = file_.tensors[t];
    first_block_.push_back(blocks);
    blocks += static_cast<int>(tensor.blocks.size());
    run_.reserve(std::max(run_.capacity(), tensor.blocks.size()));
    if (tensor.spec.use == TensorUse::kConstant || tensor.spec.use == TensorUse::kExpert ||
        tensor.spec.kept) {
      sweep_index_.insert(sweep_index_.end(), tensor.blocks.size(), -1);
      continue;
    }
    const bool swept = tensor.spec.use == TensorUse::kMatrix || tensor.spec.tied;
    for (size_t b = 0; b < tensor.blocks.size(); ++b) {
      const Block& block = tensor.blocks[b];
      const bool resident = plan.tiers[t][b] == Tier::kHost || plan.tiers[t][b] == Tier::kHostRows;
      const bool passes = swept && plan.tiers[t][b] == Tier::kDisk;
      sweep_index_.push_back(passes || resident ? static_cast<int>(sweep.size()) : -1);
      if (passes || resident) sweep.push_back({block, resident, BlockName(file_, tensor, block)});
      if (resident) resident_bytes += Padded(block.bytes);
      if (passes) largest_passing = std::max(largest_passing, Padded(block.bytes));
      if (tensor.spec.use == TensorUse::kEmbedding && !resident) {
        largest_gather = std::max(largest_gather, Padded(block.bytes));
      }
    }
  }
  if (largest_passing > 0) {
    most_passing_ = static_cast<int>(std::max<uint64_t>(1, plan.ring_bytes / 4 / largest_passing));
  }
  absl::Status status = resident_.Allocate(backend_, resident_bytes, "resident weights");
  status.Update(ring_.Allocate(backend_, plan.ring_bytes, "the prefetch ring"));
  status.Update(lent_.Allocate(backend_, plan.lendable_bytes, "weights in the cache's room"));
  const uint64_t gather_bytes =
      largest_gather == 0 ? 0 : std::max(largest_gather, plan.gather_bytes);
  status.Update(gather_memory_.Allocate(backend_, gather_bytes, "embedding rows"));
  if (!status.ok()) return status;
  if (largest_gather > 0) {
    absl::StatusOr<std::vector<std::unique_ptr<Reader>>> opened = OpenAll(file_, readers);
    if (!opened.ok()) return opened.status();
    gathers_ = std::make_unique<GatherCache>(gather_memory_.data, gather_bytes, largest_gather,
                                             blocks, *std::move(opened));
  }
  absl::StatusOr<std::vector<std::unique_ptr<Reader>>> opened = OpenAll(file_, readers);
  if (!opened.ok()) return opened.status();
  loader_ = std::make_unique<BlockLoader>(std::move(sweep),
                                          BlockLoader::Memory{.resident = resident_.data,
                                                              .ring = ring_.data,
                                                              .ring_bytes = plan.ring_bytes,
                                                              .lent = lent_.data,
                                                              .lent_bytes = plan.lendable_bytes},
                                          *std::move(opened));
  return absl::OkStatus();
}

absl::Status WeightStore::PlaceExperts(const ModelPlan& plan, const ReaderFactory& readers) {
  std::vector<ExpertCache::Expert> experts(file_.spec.experts.total);
  expert_part_.resize(file_.tensors.size(), -1);
  for (size_t t = 0; t < file_.tensors.size(); ++t) {
    const StoredTensor& tensor = file_.tensors[t];
    if (tensor.spec.use != TensorUse::kExpert || tensor.spec.kept) continue;
    ExpertCache::Expert& expert = experts[tensor.spec.expert];
    expert_part_[t] = static_cast<int>(expert.size());
    for (const Block& block : tensor.blocks) {
      expert.push_back({block, BlockName(file_, tensor, block)});
    }
  }
  if (experts.empty()) return absl::OkStatus();
  const uint64_t slot_bytes = ExpertCache::SlotBytes(experts);
  const int slots = static_cast<int>(
      std::clamp<uint64_t>(plan.expert_cache_bytes / slot_bytes, 1, experts.size()));
  absl::Status status = expert_memory_.Allocate(backend_, slots * slot_bytes, "experts");
  if (!status.ok()) return status;
  absl::StatusOr<std::vector<std::unique_ptr<Reader>>> opened = OpenAll(file_, readers);
  if (!opened.ok()) return opened.status();
  experts_ = std::make_unique<ExpertCache>(std::move(experts), expert_memory_.data, slots,
                                           *std::move(opened));
  return absl::OkStatus();
}

const float* WeightStore::Constant(int tensor) const {
  return constants_[tensor].empty() ? nullptr : constants_[tensor].data();
}

PackedRows WeightStore::RowsAt(int tensor, int block, const std::byte* data) const {
  const StoredTensor& stored = file_.tensors[tensor];
  return {data, stored.format, stored.blocks[block].rows, stored.spec.cols()};
}

WeightStore::Lease::Lease(Lease&& other) noexcept
    : store_(std::exchange(other.store_, nullptr)),
      ticket_(other.ticket_),
      passing_(other.passing_),
      rows_(other.rows_),
      row_begin_(other.row_begin_),
      blocks_(other.blocks_) {}

WeightStore::Lease::Lease(WeightStore* store, BlockLoader::Held held, PackedRows rows,
                          int64_t row_begin)
    : store_(store), rows_(rows), row_begin_(row_begin) {
  Count(held);
}

void WeightStore::Lease::Count(const BlockLoader::Held& held) {
  if (held.ticket == BlockLoader::kNoTicket) return;
  if (passing_++ == 0) ticket_ = held.ticket;
}

WeightStore::Lease::~Lease() {
  if (store_ != nullptr && passing_ > 0) store_->loader_->Release(ticket_, passing_);
}

absl::StatusOr<WeightStore::Lease> WeightStore::Acquire(int tensor, int block) {
  if (expert_part_[tensor] >= 0) {
    const BlockLoader::Held held = AcquireIfHere(tensor, block);
    return Lease(nullptr, held, RowsAt(tensor, block, held.data),
                 file_.tensors[tensor].blocks[block].row_begin);
  }
  absl::StatusOr<BlockLoader::Held> held =
      loader_->Acquire(sweep_index_[first_block_[tensor] + block]);
  if (!held.ok()) return held.status();
  return Lease(this, *held, RowsAt(tensor, block, held->data),
               file_.tensors[tensor].blocks[block].row_begin);
}

BlockLoader::Held WeightStore::AcquireIfHere(int tensor, int block) {
  if (expert_part_[tensor] >= 0) {
    return {experts_->Data(file_.tensors[tensor].spec.expert, expert_part_[tensor] + block),
            BlockLoader::kNoTicket};
  }
  return loader_->AcquireIfHere(sweep_index_[first_block_[tensor] + block]);
}

absl::StatusOr<WeightStore::Lease> WeightStore::AcquireRun(int tensor, int block) {
  absl::StatusOr<Lease> lease = Acquire(tensor, block);
  if (!lease.ok()) return lease;
  const std::vector<Block>& blocks = file_.tensors[tensor].blocks;
  const Block& first = blocks[block];
  PackedRows& rows = lease->rows_;
  run_.assign(1, rows.data);
  const bool whole_panels = first.rows % kPanelRows == 0;
  for (size_t next = block + 1; next < blocks.size() && whole_panels; ++next) {
    if (blocks[next].rows > first.rows || lease->passing_ == most_passing_) break;
    const BlockLoader::Held held = AcquireIfHere(tensor, static_cast<int>(next));
    if (held.data == nullptr) break;
    lease->Count(held);
    ++lease->blocks_;
    run_.push_back(held.data);
    rows.rows += blocks[next].rows;
    rows.block_rows = first.rows;
    rows.blocks = run_.data();
    if (blocks[next].rows < first.rows) break;
  }
  return lease;
}

void WeightStore::Observe(WaitObserver* observer) {
  loader_->Observe(observer);
  if (gathers_ != nullptr) gathers_->Observe(observer);
  if (experts_ != nullptr) experts_->Observe(observer);
}

absl::Status WeightStore::Gather(int tensor, std::span<const int32_t> ids, Tensor out,
                                 Stream stream) {
  const StoredTensor& stored = file_.tensors[tensor];
  rows_.clear();
  for (size_t i = 0; i < ids.size(); ++i) {
    auto after =
        std::upper_bound(stored.blocks.begin(), stored.blocks.end(), ids[i],
                         [](int64_t row, const Block& block) { return row < block.row_begin; });
    const int block = static_cast<int>(after - stored.blocks.begin()) - 1;
    rows_.push_back({block, static_cast<int32_t>(ids[i] - stored.blocks[block].row_begin),
                     static_cast<int32_t>(i)});
  }
  std::sort(rows_.begin(), rows_.end(), [](const RowWish& a, const RowWish& b) {
    return std::pair(a.block, a.target) < std::pair(b.block, b.target);
  });
  const size_t at_once = gathers_ == nullptr ? rows_.size() : gathers_->slots();
  size_t begin = 0;
  wishes_.clear();
  for (size_t i = 0; i <= rows_.size(); ++i) {
    const bool end = i == rows_.size();
    if (!end && !wishes_.empty() && wishes_.back().id == first_block_[tensor] + rows_[i].block) {
      continue;
    }
    if (end || wishes_.size() == at_once) {
      absl::Status status = GatherSome(tensor, std::span(wishes_),
                                       std::span(rows_).subspan(begin, i - begin), out, stream);
      if (!status.ok()) return status;
      begin = i;
      wishes_.clear();
    }
    if (!end) {
      wishes_.push_back({first_block_[tensor] + rows_[i].block, stored.blocks[rows_[i].block]});
    }
  }
  return absl::OkStatus();
}

absl::Status WeightStore::GatherSome(int tensor, std::span<GatherCache::Wish> blocks,
                                     std::span<const RowWish> rows, Tensor out, Stream stream) {
  if (blocks.empty()) return absl::OkStatus();
  // Resident ones to the front; the others are read together.
  auto is_resident = [&](const GatherCache::Wish& wish) {
    const int index = sweep_index_[wish.id];
    return index >= 0 && loader_->resident(index);
  };
  auto others = std::partition(blocks.begin(), blocks.end(), is_resident);
  for (auto it = blocks.begin(); it != others; ++it) {
    absl::StatusOr<BlockLoader::Held> held = loader_->Acquire(sweep_index_[it->id]);
    if (!held.ok()) return held.status();
    it->data = held->data;
  }
  if (others != blocks.end()) {
    absl::Status status = gathers_->Load(std::span(others, blocks.end()));
    if (!status.ok()) {
      return absl::DataLossError(absl::StrCat("cannot read ", file_.tensors[tensor].spec.name,
                                              " in ", file_.files[others->block.file], ": ",
                                              status.message()));
    }
  }
  for (const GatherCache::Wish& wish : blocks) {
    const int block = wish.id - first_block_[tensor];
    source_rows_.clear();
    targets_.clear();
    for (const RowWish& row : rows) {
      if (row.block != block) continue;
      source_rows_.push_back(row.row);
      targets_.push_back(row.target);
    }
    // With a device of its own memory, `out` is the host's as well.
    const Backend& backend = backend_.host_memory ? backend_ : Cpu();
    backend.gather({.table = RowsAt(tensor, block, wish.data),
                    .source_rows = source_rows_.data(),
                    .targets = targets_.data(),
                    .count = static_cast<int64_t>(targets_.size()),
                    .out = out},
                   stream);
  }
  return absl::OkStatus();
}

WeightStoreStats WeightStore::stats() const {
  WeightStoreStats stats;
  stats.gathered_bytes = gathers_ == nullptr ? 0 : gathers_->read_bytes();
  if (experts_ != nullptr) stats.experts = experts_->stats();
  stats.read_bytes = loader_->read_bytes() + stats.gathered_bytes + stats.experts.read_bytes;
  stats.resident_bytes = loader_->resident_read_bytes();
  stats.lent_bytes = loader_->lent_bytes();
  stats.stall_seconds = loader_->stall_seconds() + stats.experts.stall_seconds;
  return stats;
}

}  // namespace qianyi
