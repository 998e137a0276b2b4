#include "runtime/storage/expert_cache.h"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <optional>
#include <utility>

#include "absl/strings/str_format.h"
#include "runtime/storage/padded.h"
#include "runtime/storage/reader.h"
#include "xxhash.h"

namespace qianyi {
namespace {

using Clock = std::chrono::steady_clock;

// A use counts half after so many steps: long enough to tell the popular from the lucky, short
// enough to follow a change of subject.
constexpr double kHalfLifeSteps = 128;
// Of what is read, this share may turn out to have been read in vain.
constexpr uint64_t kVainShare = 20;

uint64_t BytesOf(const ExpertCache::Expert& expert) {
  uint64_t bytes = 0;
  for (const ExpertCache::Part& part : expert) bytes += Padded(part.block.bytes);
  return bytes;
}

}  // namespace

uint64_t ExpertCache::SlotBytes(std::span<const Expert> experts) {
  uint64_t most = 0;
  for (const Expert& expert : experts) most = std::max(most, BytesOf(expert));
  return most;
}

ExpertCache::ExpertCache(std::vector<Expert> experts, std::byte* memory, int slots,
                         std::vector<std::unique_ptr<Reader>> readers)
    : experts_(std::move(experts)),
      slot_bytes_(SlotBytes(experts_)),
      memory_(memory),
      reads_(std::move(readers)),
      entries_(experts_.size()),
      slots_(slots, -1) {
  for (size_t e = 0; e < experts_.size(); ++e) {
    first_part_.push_back(static_cast<int>(part_offset_.size()));
    entries_[e].bytes = BytesOf(experts_[e]);
    uint64_t offset = 0;
    for (const Part& part : experts_[e]) {
      expert_of_part_.push_back(static_cast<int32_t>(e));
      part_offset_.push_back(offset);
      offset += Padded(part.block.bytes);
    }
  }
  checked_.resize(part_offset_.size(), false);
  for (auto* list : {&wanted_, &missing_, &foreseen_}) list->reserve(experts_.size());
  thread_ = std::thread([this] { Run(); });
}

ExpertCache::~ExpertCache() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  issued_.notify_all();
  thread_.join();
}

void ExpertCache::Run() {
  pthread_setname_np(pthread_self(), "experts");
  std::unique_lock lock(mutex_);
  for (;;) {
    while (!stop_ && reads_.Wants(kReadChunkBytes) && IssueNext()) {
    }
    if (reads_.idle()) {
      if (stop_) return;
      issued_.wait(lock);
      continue;
    }
    lock.unlock();
    const std::optional<BlockReads::Done> done = reads_.Wait();
    absl::Status status;
    if (done) status = Check(done->id, done->status);
    lock.lock();
    if (done) Finish(done->id, status);
  }
}

bool ExpertCache::IssueNext() {
  while (missing_begin_ < missing_.size()) {
    const int32_t expert = missing_[missing_begin_];
    if (entries_[expert].state == State::kAbsent && !Issue(expert)) return false;
    ++missing_begin_;
    return true;
  }
  while (foreseen_begin_ < foreseen_.size()) {
    const int32_t expert = foreseen_[foreseen_begin_];
    Entry& entry = entries_[expert];
    if (entry.state == State::kAbsent) {
      if (!MayForesee(entry) || !Issue(expert)) return false;
      entry.ahead = entry.unused = true;
      pending_bytes_ += entry.bytes;
      ++stats_.foreseen;
    }
    ++foreseen_begin_;
    return true;
  }
  return false;
}

bool ExpertCache::MayForesee(const Entry& entry) const {
  return (vain_bytes_ + pending_bytes_ + entry.bytes) * kVainShare <= stats_.read_bytes;
}

// False when every slot is in use.
bool ExpertCache::Issue(int32_t expert) {
  const int slot = FreeSlot();
  if (slot < 0) return false;
  if (slots_[slot] >= 0) {
    Entry& gone = entries_[slots_[slot]];
    gone.state = State::kAbsent;
    gone.slot = -1;
    gone.unused = false;
  }
  slots_[slot] = expert;
  Entry& entry = entries_[expert];
  entry.state = State::kLoading;
  entry.slot = slot;
  entry.status = absl::OkStatus();
  entry.parts_left = static_cast<int>(experts_[expert].size());
  for (int i = 0; i < entry.parts_left; ++i) {
    const Block& block = experts_[expert][i].block;
    const int part = first_part_[expert] + i;
    reads_.Add({static_cast<uint64_t>(part), block.file, block.offset, Padded(block.bytes),
                memory_ + slot * slot_bytes_ + part_offset_[part]});
  }
  return true;
}

// An empty one, or that of the expert least worth keeping.
int ExpertCache::FreeSlot() const {
  int best = -1;
  for (size_t i = 0; i < slots_.size(); ++i) {
    const int32_t expert = slots_[i];
    if (expert < 0) return static_cast<int>(i);
    const Entry& entry = entries_[expert];
    if (entry.wanted || entry.ahead || expert == taken_ || entry.state == State::kLoading) continue;
    if (best < 0 || entry.key < entries_[slots_[best]].key) best = static_cast<int>(i);
  }
  return best;
}

// Compared at any one time, uses decayed to then are in the order of
// log2(uses) + used_step / half-life, which does not change while nobody uses them.
void ExpertCache::Count(Entry* entry) {
  const double age = static_cast<double>(step_ - entry->used_step);
  entry->uses = entry->uses * std::exp2(-age / kHalfLifeSteps) + 1;
  entry->used_step = step_;
  entry->key = std::log2(entry->uses) + static_cast<double>(step_) / kHalfLifeSteps;
}

absl::Status ExpertCache::Check(uint64_t part, const absl::Status& read) {
  const int32_t expert = expert_of_part_[part];
  const Part& of = experts_[expert][part - first_part_[expert]];
  if (!read.ok()) {
    return absl::DataLossError(absl::StrFormat("cannot read %s: %s", of.name, read.message()));
  }
  if (checked_[part] || of.block.checksum == 0) return absl::OkStatus();
  int slot;
  {
    std::lock_guard lock(mutex_);
    slot = entries_[expert].slot;  // it is loading, so it stays there
  }
  const std::byte* data = memory_ + slot * slot_bytes_ + part_offset_[part];
  if (XXH3_64bits(data, of.block.bytes) != of.block.checksum) {
    return absl::DataLossError(absl::StrFormat(
        "%s at offset %d does not match its checksum: the file is damaged; convert or download "
        "it again",
        of.name, of.block.offset));
  }
  checked_[part] = true;
  return absl::OkStatus();
}

void ExpertCache::Finish(uint64_t part, const absl::Status& status) {
  Entry& entry = entries_[expert_of_part_[part]];
  entry.status.Update(status);
  if (--entry.parts_left > 0) return;
  stats_.read_bytes += entry.bytes;
  if (entry.status.ok()) {
    entry.state = State::kReady;
  } else {
    entry.state = State::kFailed;
    entry.key = 0;  // first to go
  }
  ready_.notify_all();
}

void ExpertCache::BeginStep() {
  std::lock_guard lock(mutex_);
  ++step_;
}

// With mutex_ held: nobody needs what the last layer needed.
void ExpertCache::EndLayer() {
  for (const int32_t expert : wanted_) entries_[expert].wanted = false;
  for (size_t i = 0; i < foreseen_begin_; ++i) entries_[foreseen_[i]].ahead = false;
  wanted_.clear();
  missing_.clear();
  foreseen_.clear();
  missing_begin_ = foreseen_begin_ = 0;
  taken_ = -1;
}

void ExpertCache::Want(std::span<const int32_t> experts) {
  std::lock_guard lock(mutex_);
  EndLayer();
  uint64_t used_ahead = 0;
  for (const int32_t expert : experts) {
    Entry& entry = entries_[expert];
    if (entry.state == State::kFailed) {  // once more: the disk may have recovered
      slots_[entry.slot] = -1;
      entry.slot = -1;
      entry.state = State::kAbsent;
      entry.unused = false;
    }
    const bool hit = entry.state == State::kReady && !entry.unused;
    ++stats_.uses;
    stats_.used_bytes += entry.bytes;
    stats_.hits += hit ? 1 : 0;
    stats_.hit_bytes += hit ? entry.bytes : 0;
    if (entry.unused) {
      ++stats_.foreseen_used;
      used_ahead += entry.bytes;
      entry.unused = false;
    }
    entry.wanted = true;
    wanted_.push_back(expert);
    if (entry.state == State::kAbsent) missing_.push_back(expert);
    Count(&entry);
  }
  // What was read ahead for this layer and is not used now counts as read in vain.
  vain_bytes_ += pending_bytes_ - std::min(pending_bytes_, used_ahead);
  pending_bytes_ = 0;
  if (!missing_.empty()) issued_.notify_one();
}

void ExpertCache::Foresee(std::span<const int32_t> experts) {
  std::lock_guard lock(mutex_);
  for (size_t i = 0; i < foreseen_begin_; ++i) entries_[foreseen_[i]].ahead = false;
  foreseen_.clear();
  foreseen_begin_ = 0;
  for (const int32_t expert : experts) {
    if (entries_[expert].state == State::kAbsent) foreseen_.push_back(expert);
  }
  if (!foreseen_.empty()) issued_.notify_one();
}

absl::StatusOr<int32_t> ExpertCache::Next() {
  ObservedWait observed(observer_);
  std::unique_lock lock(mutex_);
  taken_ = -1;
  if (missing_begin_ < missing_.size()) issued_.notify_one();  // there may be room now
  const auto settled = [this] {
    return std::find_if(wanted_.begin(), wanted_.end(),
                        [this](int32_t expert) { return entries_[expert].state >= State::kReady; });
  };
  auto found = settled();
  if (found == wanted_.end()) {
    const auto start = Clock::now();
    observed.Begin();
    ready_.wait(lock, [&] {
      found = settled();
      return found != wanted_.end();
    });
    stats_.stall_seconds += std::chrono::duration<double>(Clock::now() - start).count();
  }
  const int32_t expert = *found;
  Entry& entry = entries_[expert];
  if (entry.state == State::kFailed) {
    absl::Status status = entry.status;
    EndLayer();
    return status;
  }
  wanted_.erase(found);
  entry.wanted = false;
  taken_ = expert;
  return expert;
}

const std::byte* ExpertCache::Data(int32_t expert, int part) const {
  // The engine's thread took it, and a slot that was taken keeps its expert.
  return memory_ + entries_[expert].slot * slot_bytes_ + part_offset_[first_part_[expert] + part];
}

ExpertStats ExpertCache::stats() const {
  std::lock_guard lock(mutex_);
  return stats_;
}

}  // namespace qianyi
