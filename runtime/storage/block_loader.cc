#include "runtime/storage/block_loader.h"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_format.h"
#include "runtime/storage/padded.h"
#include "xxhash.h"

namespace qianyi {
namespace {

using Clock = std::chrono::steady_clock;

std::vector<uint64_t> PassingBytes(const std::vector<SweepBlock>& blocks) {
  std::vector<uint64_t> bytes;
  for (const SweepBlock& block : blocks) {
    if (!block.resident) bytes.push_back(Padded(block.block.bytes));
  }
  return bytes;
}

}  // namespace

BlockLoader::BlockLoader(std::vector<SweepBlock> blocks, const Memory& memory,
                         std::vector<std::unique_ptr<Reader>> readers)
    : blocks_(std::move(blocks)),
      place_(blocks_.size()),
      memory_(memory),
      checked_(blocks_.size()),
      reads_(std::move(readers)),
      ahead_(ReadAhead::Shapes(reads_.depth())),
      lent_(PassingBytes(blocks_), memory.lent, memory.lent_bytes) {
  uint64_t offset = 0;
  for (size_t i = 0; i < blocks_.size(); ++i) {
    auto& list = blocks_[i].resident ? resident_ : streamed_;
    place_[i] = static_cast<int>(list.size());
    list.push_back(static_cast<int>(i));
    if (blocks_[i].resident) {
      resident_at_.push_back(memory.resident + offset);
      offset += Padded(blocks_[i].block.bytes);
    }
  }
  resident_state_ = std::vector<std::atomic<State>>(resident_.size());
  for (auto& state : resident_state_) state.store(State::kAbsent, std::memory_order_relaxed);
  resident_status_.resize(resident_.size());
  unchecked_.reserve(blocks_.size());
  fresh_ = std::make_unique<FreshMemory>(memory.resident, offset, FreshMemory::Threads());
  thread_ = std::thread([this] { Run(); });
  checker_ = std::thread([this] { RunChecks(); });
}

BlockLoader::~BlockLoader() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  fresh_->Stop();
  wanted_.notify_all();
  to_check_.notify_all();
  thread_.join();
  checker_.join();
}

void BlockLoader::Run() {
  pthread_setname_np(pthread_self(), "loader");
  std::unique_lock lock(mutex_);
  for (;;) {
    if (!stop_) IssueAll();
    if (reads_.idle()) {
      if (stop_) return;
      if (next_resident_ < resident_.size()) {
        lock.unlock();
        fresh_->Help(NextResidentEnd());
        lock.lock();
      } else {
        wanted_.wait(lock, [this] { return stop_ || HasWork(); });
      }
      continue;
    }
    lock.unlock();
    std::optional<BlockReads::Done> done = reads_.Wait();
    lock.lock();
    if (!done) continue;
    const SweepBlock& block = blocks_[IndexOf(done->id)];
    if (done->status.ok()) {
      read_bytes_.fetch_add(Padded(block.block.bytes), std::memory_order_relaxed);
    } else {
      done->status = absl::DataLossError(
          absl::StrFormat("cannot read %s: %s", block.name, done->status.message()));
    }
    if (NeedsCheck(*done)) {
      unchecked_.push_back(*done);
      to_check_.notify_one();
    } else {
      Finish(*done);
    }
  }
}

// Until all blocks have been checked once. One may have been read again before its first check
// ended: that read waits here as well, and nobody else would end it. The memory of one that is
// being checked stays its own: its read has not ended for anybody else.
void BlockLoader::RunChecks() {
  pthread_setname_np(pthread_self(), "checker");
  size_t left = static_cast<size_t>(
      std::count_if(blocks_.begin(), blocks_.end(),
                    [](const SweepBlock& block) { return block.block.checksum != 0; }));
  std::unique_lock lock(mutex_);
  while (left > 0 || !unchecked_.empty()) {
    to_check_.wait(lock, [this] { return stop_ || !unchecked_.empty(); });
    if (unchecked_.empty()) return;
    std::vector<BlockReads::Done>::iterator first = unchecked_.begin();
    BlockReads::Done done = *first;
    unchecked_.erase(first);
    lock.unlock();
    done.status = Check(done.id);
    lock.lock();
    if (done.status.ok() && !checked_[IndexOf(done.id)].exchange(true)) --left;
    Finish(done);
    wanted_.notify_one();  // what nobody wanted gives its room back
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
  const uint64_t next = NextTicket();
  if (next == kNoTicket) return false;
  const Block& block = blocks_[streamed_[next % streamed_.size()]].block;
  return AllocateRing(Padded(block.bytes), nullptr) != nullptr;
}

// The first sweep loads in execution order, so that the first token needs no more than what
// it needs; a full ring does not hold up the resident set.
bool BlockLoader::IssueNext() {
  const bool any_resident = next_resident_ < resident_.size();
  const bool first_sweep = next_issue_ < streamed_.size();
  if (any_resident && (!first_sweep || resident_[next_resident_] < streamed_[next_issue_])) {
    return IssueResident();
  }
  if (!streamed_.empty() && IssueStreamed()) return true;
  return any_resident && IssueResident();
}

uint64_t BlockLoader::NextResidentEnd() const {
  return resident_at_[next_resident_] - memory_.resident +
         Padded(blocks_[resident_[next_resident_]].block.bytes);
}

// Not into memory that is still to be made.
bool BlockLoader::IssueResident() {
  if (!fresh_->Made(NextResidentEnd())) return false;
  const size_t at = next_resident_++;
  const Block& block = blocks_[resident_[at]].block;
  resident_state_[at].store(State::kLoading, std::memory_order_relaxed);
  reads_.Add({static_cast<uint64_t>(at) << 1, block.file, block.offset, Padded(block.bytes),
              resident_at_[at]});
  return true;
}

// The next block that must be read: those in lent memory are left out, and one on its way there
// is waited for. No block is read twice ahead of its use. kNoTicket: none now.
uint64_t BlockLoader::NextTicket() const {
  if (lending_) return kNoTicket;
  const uint64_t count = streamed_.size();
  for (uint64_t ticket = next_issue_; ticket < next_use_ + count; ++ticket) {
    const LentPlaces::State state = lent_.state(static_cast<int>(ticket % count));
    if (state == LentPlaces::State::kHere) continue;
    return state == LentPlaces::State::kOut ? ticket : kNoTicket;
  }
  return kNoTicket;
}

bool BlockLoader::IssueStreamed() {
  const uint64_t ticket = NextTicket();
  if (ticket == kNoTicket) return false;
  const int place = static_cast<int>(ticket % streamed_.size());
  const Block& block = blocks_[streamed_[place]].block;
  const uint64_t bytes = Padded(block.bytes);
  Entry entry{.ticket = ticket, .at = lent_.Fill(place), .status = {}};
  if (entry.at == nullptr) {
    entry.bytes = bytes;
    entry.at = AllocateRing(bytes, &entry.begin);
  }
  if (entry.at == nullptr) return false;
  reads_.Add({ticket << 1 | 1, block.file, block.offset, bytes, entry.at});
  entries_.push_back(std::move(entry));
  next_issue_ = ticket + 1;
  return true;
}

// The first place that is free, from the beginning: while the disk is waited for, the same few
// places are used over and over and stay in the processor's caches, which a virtual disk's copies
// and the kernels are both faster for. Null when there is none; with `begin` null this only asks.
std::byte* BlockLoader::AllocateRing(uint64_t bytes, uint64_t* begin) const {
  uint64_t at = 0;
  for (bool moved = true; moved && at + bytes <= memory_.ring_bytes;) {
    moved = false;
    for (const Entry& entry : entries_) {
      if (at >= entry.begin + entry.bytes || entry.begin >= at + bytes) continue;
      at = entry.begin + entry.bytes;
      moved = true;
    }
  }
  if (at + bytes > memory_.ring_bytes) return nullptr;
  if (begin != nullptr) *begin = at;
  return memory_.ring + at;
}

int BlockLoader::IndexOf(uint64_t id) const {
  const uint64_t key = id >> 1;
  return (id & 1) != 0 ? streamed_[key % streamed_.size()] : resident_[key];
}

bool BlockLoader::NeedsCheck(const BlockReads::Done& done) const {
  const int index = IndexOf(done.id);
  return done.status.ok() && blocks_[index].block.checksum != 0 && !checked_[index];
}

absl::Status BlockLoader::Check(uint64_t id) {
  const SweepBlock& block = blocks_[IndexOf(id)];
  const std::byte* data = nullptr;
  if ((id & 1) != 0) {
    std::lock_guard lock(mutex_);
    data = FindEntry(id >> 1)->at;
  } else {
    data = resident_at_[id >> 1];
  }
  if (XXH3_64bits(data, block.block.bytes) == block.block.checksum) return absl::OkStatus();
  return absl::DataLossError(absl::StrFormat(
      "%s at offset %d does not match its checksum: the file is damaged; convert or download "
      "it again",
      block.name, block.block.offset));
}

void BlockLoader::Finish(const BlockReads::Done& done) {
  const uint64_t key = done.id >> 1;
  const State state = done.status.ok() ? State::kReady : State::kFailed;
  if ((done.id & 1) == 0) {
    resident_status_[key] = done.status;
    if (done.status.ok()) resident_read_.fetch_add(Padded(blocks_[resident_[key]].block.bytes));
    resident_state_[key].store(state, std::memory_order_release);
  } else {
    Entry* entry = FindEntry(key);
    entry->state = state;
    entry->status = done.status;
    if (entry->bytes > 0) {
      ahead_.Came(entry->bytes,
                  std::chrono::duration<double>(Clock::now().time_since_epoch()).count());
    } else {
      lent_.Filled(static_cast<int>(key % streamed_.size()), done.status.ok());
      lent_bytes_ = lent_.bytes_here();
      entry->released |= done.status.ok();
      ahead_.Paused();  // it came to a new place
    }
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

// The next ticket of a block; what is read ahead of those before it, and not used, is given up.
uint64_t BlockLoader::PassTo(int place) {
  const uint64_t count = streamed_.size();
  const uint64_t ticket = next_use_ + (place + count - next_use_ % count) % count;
  for (Entry& entry : entries_) {
    if (entry.ticket < ticket && !entry.leased) entry.released = true;
  }
  DropReleased();
  next_use_ = ticket + 1;
  next_issue_ = std::max(next_issue_, ticket);
  wanted_.notify_one();
  return ticket;
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
    const uint64_t ticket = PassTo(place);
    Entry* entry = nullptr;
    wait_for([&] {
      entry = FindEntry(ticket);
      return lent_.here(place) || (entry != nullptr && entry->state != State::kLoading);
    });
    if (lent_.here(place)) {
      held = Held{lent_.at(place), kNoTicket};
    } else if (entry->state == State::kFailed) {
      held = entry->status;
      entry->released = true;
      DropReleased();
      wanted_.notify_one();
    } else {
      entry->leased = true;
      held = Held{entry->at, ticket};
    }
  }
  stall_nanoseconds_.fetch_add((Clock::now() - start).count(), std::memory_order_relaxed);
  return held;
}

BlockLoader::Held BlockLoader::AcquireIfHere(int index) {
  if (blocks_[index].resident) return {ResidentAt(index), kNoTicket};
  std::lock_guard lock(mutex_);
  const int place = place_[index];
  if (next_use_ % streamed_.size() != static_cast<uint64_t>(place)) return {};
  if (lent_.here(place)) {
    ++next_use_;
    return {lent_.at(place), kNoTicket};
  }
  Entry* const entry = FindEntry(next_use_);
  if (entry == nullptr || entry->state != State::kReady) return {};
  entry->leased = true;
  return {entry->at, next_use_++};
}

const std::byte* BlockLoader::ResidentAt(int index) const {
  if (!blocks_[index].resident) return nullptr;
  const int place = place_[index];
  const bool ready = resident_state_[place].load(std::memory_order_acquire) == State::kReady;
  return ready ? resident_at_[place] : nullptr;
}

void BlockLoader::Release(uint64_t ticket, int count) {
  {
    std::lock_guard lock(mutex_);
    for (Entry& entry : entries_) {
      if (count == 0) break;
      if (entry.ticket < ticket || !entry.leased) continue;
      entry.leased = false;
      entry.released = true;
      --count;
    }
    DropReleased();
  }
  wanted_.notify_one();
}

// Blocks that leave must pass again. Where reading is ahead of them already, all of it is given up:
// it is a ring's worth, seldom.
void BlockLoader::Lend(uint64_t bytes) {
  std::unique_lock lock(mutex_);
  if (lent_.Drops(bytes)) {
    lending_ = true;
    ready_.wait(lock, [this] {
      return std::none_of(entries_.begin(), entries_.end(),
                          [](const Entry& entry) { return entry.state == State::kLoading; });
    });
    entries_.clear();
    next_issue_ = next_use_;
    lending_ = false;
  }
  lent_.Limit(bytes);
  lent_bytes_ = lent_.bytes_here();
  wanted_.notify_one();
}

}  // namespace qianyi
