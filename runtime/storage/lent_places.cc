#include "runtime/storage/lent_places.h"

#include <algorithm>
#include <bit>

#include "runtime/memory_size.h"

namespace qianyi {
namespace {

// Of [0, count): each prefix is spread evenly.
std::vector<int> SpreadOrder(size_t count) {
  std::vector<int> order;
  const size_t steps = std::bit_ceil(std::max<size_t>(count, 1));
  for (size_t i = 0; i < steps; ++i) {
    size_t reversed = 0;
    for (size_t bit = 1, value = i; bit < steps; bit *= 2, value /= 2) {
      reversed = 2 * reversed + value % 2;
    }
    if (reversed < count) order.push_back(static_cast<int>(reversed));
  }
  return order;
}

}  // namespace

LentPlaces::LentPlaces(const std::vector<uint64_t>& block_bytes, std::byte* memory, uint64_t bytes)
    : blocks_(block_bytes.size()), memory_(memory), bytes_(bytes) {
  uint64_t end = 0;
  for (const int block : SpreadOrder(block_bytes.size())) {
    Block& it = blocks_[block];
    it.bytes = block_bytes[block];
    if (end + it.bytes > bytes) continue;  // a smaller one may fit
    it.at = memory + end;
    end += it.bytes;
    it.end = end;
  }
}

std::byte* LentPlaces::Fill(int block) {
  Block& it = blocks_[block];
  if (it.end > limit_) return nullptr;
  it.state = State::kFilling;
  return it.at;
}

void LentPlaces::Filled(int block, bool ok) {
  Block& it = blocks_[block];
  it.state = ok ? State::kHere : State::kOut;
  if (ok) bytes_here_ += it.bytes;
}

bool LentPlaces::Drops(uint64_t bytes) const {
  bytes -= bytes % kHugePageBytes;
  return std::any_of(blocks_.begin(), blocks_.end(), [bytes](const Block& block) {
    return block.state != State::kOut && block.end > bytes;
  });
}

// By whole huge pages: the system keeps one as long as a part of it is in use.
void LentPlaces::Limit(uint64_t bytes) {
  const uint64_t whole = (bytes_ + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes;
  const uint64_t limit = std::min(whole, bytes / kHugePageBytes * kHugePageBytes);
  for (Block& block : blocks_) {
    if (block.state == State::kOut || block.end <= limit) continue;
    bytes_here_ -= block.bytes;
    block.state = State::kOut;
  }
  if (limit < limit_) GiveBack(memory_ + limit, limit_ - limit);
  limit_ = limit;
}

}  // namespace qianyi
