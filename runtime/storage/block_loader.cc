#include "runtime/storage/block_loader.h"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_format.h"
#include "xxhash.h"

namespace qianyi {
namespace {

using Clock = std::chrono::steady_clock;

uint64_t Padded(uint64_t bytes) { return (bytes + kPageBytes - 1) / kPageBytes * kPageBytes; }

}  // namespace

BlockLoader::BlockLoader(std::vector<SweepBlock> blocks, std::byte* resident, std::byte* ring,
                         uint64_t ring_bytes, std::vector<std::unique_ptr<Reader>> readers)
    : blocks_(std::move(blocks)),
      place_(blocks_.size()),
      ring_(ring),
      ring_bytes_(ring_bytes),
      checked_(blocks_.size(), false),
      reads_(std::move(readers)),
      ahead_(ReadAhead::Shapes(reads_.depth())) {
  uint64_t offset = 0;
  for (size_t i = 0; i < blocks_.size(); ++i) {
    auto& list = blocks_[i].resident ? resident_ : streamed_;
    place_[i] = static_cast<int>(list.size());
    list.push_back(static_cast<int>(i));
    if (blocks_[i].resident) {
      resident_at_.push_back(resident + offset);
      offset += Padded(blocks_[i].block.bytes);
    }
  }
  resident_state_ = std::vector<std::atomic<State>>(resident_.size());
  for (auto& state : resident_state_) state.store(State::kAbsent, std::memory_order_relaxed);
  resident_status_.resize(resident_.size());
  thread_ = std::thread([this] { Run(); });
}

BlockLoader::~BlockLoader() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wanted_.notify_all();
  thread_.join();
}

void BlockLoader::Run() {
  pthread_setname_np(pthread_self(), "loader");
  std::unique_lock lock(mutex_);
  for (;;) {
    if (!stop_) IssueAll();
    if (reads_.idle()) {
      if (stop_) return;
      wanted_.wait(lock, [this] { return stop_ || HasWork(); });
      continue;
    }
    lock.unlock();
    const std::optional<BlockReads::Done> done = reads_.Wait();
    absl::Status status;
    if (done) status = Check(done->id, done->status);
    lock.lock();
    if (done) Finish(*done, status);
  }
}

void BlockLoader::IssueAll() {
  const ReadAhead::Shape& shape = ahead_.shape();
  reads_.Limit(shape.in_flight);
  bool issued = true;
  while (reads_.Wants(shape.waiting_bytes) && issued) issued = IssueNext();
  // What is resident goes to new places whatever the shape, and without room the disk is not waited
  // for.
  const bool all_resident = next_resident_ == resident_.size();
  if (!all_resident || (!issued && reads_.waiting_bytes() < reads_.free_bytes())) ahead_.Paused();
}

bool BlockLoader::HasWork() const {
  if (next_resident_ < resident_.size()) return true;
  if (streamed_.empty()) return false;
  const Block& next = blocks_[streamed_[next_issue_ % streamed_.size()]].block;
  return AllocateRing(Padded(next.bytes), nullptr) != nullptr;
}

// The first sweep loads in execution order, so that the first token needs no more than what
// it needs; a full ring does not hold up the resident set.
bool BlockLoader::IssueNext() {
  const bool any_resident = next_resident_ < resident_.size();
  const bool first_sweep = next_issue_ < streamed_.size();
  if (any_resident && (!first_sweep || resident_[next_resident_] < streamed_[next_issue_])) {
    IssueResident();
    return true;
  }
  if (!streamed_.empty() && IssueStreamed()) return true;
  if (!any_resident) return false;
  IssueResident();
  return true;
}

void BlockLoader::IssueResident() {
  const size_t at = next_resident_++;
  const Block& block = blocks_[resident_[at]].block;
  resident_state_[at].store(State::kLoading, std::memory_order_relaxed);
  reads_.Add({static_cast<uint64_t>(at) << 1, block.file, block.offset, Padded(block.bytes),
              resident_at_[at]});
}

bool BlockLoader::IssueStreamed() {
  const Block& block = blocks_[streamed_[next_issue_ % streamed_.size()]].block;
  const uint64_t bytes = Padded(block.bytes);
  uint64_t begin = 0;
  std::byte* to = AllocateRing(bytes, &begin);
  if (to == nullptr) return false;
  entries_.push_back({.ticket = next_issue_, .begin = begin, .bytes = bytes, .status = {}});
  reads_.Add({next_issue_ << 1 | 1, block.file, block.offset, bytes, to});
  ++next_issue_;
  return true;
}

// The first place that is free, from the beginning: while the disk is waited for, the same few
// places are used over and over and stay in the processor's caches, which a virtual disk's copies
// and the kernels are both faster for. Null when there is none; with `begin` null this only asks.
std::byte* BlockLoader::AllocateRing(uint64_t bytes, uint64_t* begin) const {
  uint64_t at = 0;
  for (bool moved = true; moved && at + bytes <= ring_bytes_;) {
    moved = false;
    for (const Entry& entry : entries_) {
      if (at >= entry.begin + entry.bytes || entry.begin >= at + bytes) continue;
      at = entry.begin + entry.bytes;
      moved = true;
    }
  }
  if (at + bytes > ring_bytes_) return nullptr;
  if (begin != nullptr) *begin = at;
  return ring_ + at;
}

absl::Status BlockLoader::Check(uint64_t id, const absl::Status& read) {
  const bool streamed = (id & 1) != 0;
  const uint64_t key = id >> 1;
  const int index = streamed ? streamed_[key % streamed_.size()] : resident_[key];
  const SweepBlock& block = blocks_[index];
  if (!read.ok()) {
    return absl::DataLossError(absl::StrFormat("cannot read %s: %s", block.name, read.message()));
  }
  read_bytes_.fetch_add(Padded(block.block.bytes), std::memory_order_relaxed);
  if (checked_[index] || block.block.checksum == 0) return absl::OkStatus();
  const std::byte* data = nullptr;
  if (streamed) {
    std::lock_guard lock(mutex_);
    data = ring_ + FindEntry(key)->begin;
  } else {
    data = resident_at_[key];
  }
  if (XXH3_64bits(data, block.block.bytes) != block.block.checksum) {
    return absl::DataLossError(absl::StrFormat(
        "%s at offset %d does not match its checksum: the file is damaged; convert or download "
        "it again",
        block.name, block.block.offset));
  }
  checked_[index] = true;
  return absl::OkStatus();
}

void BlockLoader::Finish(const BlockReads::Done& done, const absl::Status& status) {
  const uint64_t key = done.id >> 1;
  const State state = status.ok() ? State::kReady : State::kFailed;
  if ((done.id & 1) == 0) {
    resident_status_[key] = status;
    if (status.ok()) resident_read_.fetch_add(Padded(blocks_[resident_[key]].block.bytes));
    resident_state_[key].store(state, std::memory_order_release);
  } else {
    Entry* entry = FindEntry(key);
    entry->state = state;
    entry->status = status;
    ahead_.Came(entry->bytes,
                std::chrono::duration<double>(Clock::now().time_since_epoch()).count());
    DropReleased();
  }
  ready_.notify_all();
}

BlockLoader::Entry* BlockLoader::FindEntry(uint64_t ticket) {
  auto it = std::lower_bound(entries_.begin(), entries_.end(), ticket,
                             [](const Entry& entry, uint64_t t) { return entry.ticket < t; });
  return it != entries_.end() && it->ticket == ticket ? &*it : nullptr;
}

// Memory may be used again once its read has ended, even if nobody wants the result.
void BlockLoader::DropReleased() {
  while (!entries_.empty() && entries_.front().released &&
         entries_.front().state != State::kLoading) {
    entries_.erase(entries_.begin());
  }
}

absl::StatusOr<BlockLoader::Held> BlockLoader::Acquire(int index) {
  const int place = place_[index];
  if (blocks_[index].resident) {
    if (resident_state_[place].load(std::memory_order_acquire) == State::kReady) {
      return Held{resident_at_[place], kNoTicket};
    }
  }
  const auto start = Clock::now();
  ObservedWait observed(observer_);
  std::unique_lock lock(mutex_);
  absl::StatusOr<Held> held;
  const auto wait_for = [&](auto ready) {
    if (ready()) return;
    observed.Begin();
    ready_.wait(lock, ready);
  };
  if (blocks_[index].resident) {
    wait_for([&] { return resident_state_[place].load() >= State::kReady; });
    if (resident_state_[place].load() == State::kFailed) {
      held = resident_status_[place];
    } else {
      held = Held{resident_at_[place], kNoTicket};
    }
  } else {
    const uint64_t count = streamed_.size();
    const uint64_t ticket = next_use_ + (place + count - next_use_ % count) % count;
    for (Entry& entry : entries_) {
      if (entry.ticket < ticket && !entry.leased) entry.released = true;
    }
    DropReleased();
    next_use_ = ticket + 1;
    next_issue_ = std::max(next_issue_, ticket);
    wanted_.notify_one();
    Entry* entry = nullptr;
    wait_for([&] {
      entry = FindEntry(ticket);
      return entry != nullptr && entry->state != State::kLoading;
    });
    if (entry->state == State::kFailed) {
      held = entry->status;
      entry->released = true;
      DropReleased();
      wanted_.notify_one();
    } else {
      entry->leased = true;
      held = Held{ring_ + entry->begin, ticket};
    }
  }
  stall_nanoseconds_.fetch_add((Clock::now() - start).count(), std::memory_order_relaxed);
  return held;
}

const std::byte* BlockLoader::ResidentAt(int index) const {
  if (!blocks_[index].resident) return nullptr;
  const int place = place_[index];
  const bool ready = resident_state_[place].load(std::memory_order_acquire) == State::kReady;
  return ready ? resident_at_[place] : nullptr;
}

void BlockLoader::Release(uint64_t ticket) {
  {
    std::lock_guard lock(mutex_);
    Entry* entry = FindEntry(ticket);
    entry->leased = false;
    entry->released = true;
    DropReleased();
  }
  wanted_.notify_one();
}

}  // namespace qianyi
