#include "runtime/storage/gather_cache.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_format.h"
#include "runtime/storage/padded.h"
#include "xxhash.h"

namespace qianyi {
GatherCache::GatherCache(std::byte* memory, uint64_t memory_bytes, uint64_t block_bytes, int blocks,
                         std::vector<std::unique_ptr<Reader>> readers)
    : slots_(std::max<uint64_t>(1, memory_bytes / block_bytes)),
      slot_of_(blocks, -1),
      checked_(blocks, false),
      reads_(std::move(readers)) {
  for (size_t i = 0; i < slots_.size(); ++i) slots_[i].data = memory + i * block_bytes;
}

absl::Status GatherCache::Load(std::span<Wish> wishes) {
  ++clock_;
  for (const Wish& wish : wishes) {  // first, so that none of them is thrown out
    if (slot_of_[wish.id] >= 0) slots_[slot_of_[wish.id]].used = clock_;
  }
  for (Wish& wish : wishes) {
    if (slot_of_[wish.id] < 0) {
      auto slot = std::min_element(slots_.begin(), slots_.end(),
                                   [](const Slot& a, const Slot& b) { return a.used < b.used; });
      if (slot->id >= 0) slot_of_[slot->id] = -1;
      slot->id = wish.id;
      slot->used = clock_;
      slot_of_[wish.id] = static_cast<int>(slot - slots_.begin());
      reads_.Add({static_cast<uint64_t>(wish.id), wish.block.file, wish.block.offset,
                  Padded(wish.block.bytes), slot->data});
      read_bytes_ += Padded(wish.block.bytes);
    }
    wish.data = slots_[slot_of_[wish.id]].data;
  }
  absl::Status status;
  auto fail = [&](int id, const absl::Status& why) {
    Slot& slot = slots_[slot_of_[id]];
    slot_of_[id] = -1;
    slot.id = -1;
    slot.used = 0;
    status.Update(why);
  };
  ObservedWait observed(observer_);
  while (!reads_.idle()) {
    observed.Begin();
    const std::optional<BlockReads::Done> done = reads_.Wait();
    if (done && !done->status.ok()) fail(static_cast<int>(done->id), done->status);
  }
  for (const Wish& wish : wishes) {
    if (slot_of_[wish.id] < 0 || checked_[wish.id]) continue;
    checked_[wish.id] =
        wish.block.checksum == 0 || XXH3_64bits(wish.data, wish.block.bytes) == wish.block.checksum;
    if (!checked_[wish.id]) {
      fail(wish.id, absl::DataLossError(absl::StrFormat(
                        "the block at offset %d does not match its checksum: the file is "
                        "damaged; convert or download it again",
                        wish.block.offset)));
    }
  }
  return status;
}

}  // namespace qianyi
