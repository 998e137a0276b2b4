// Memory that others need only at times, and which blocks of a sweep lie in it meanwhile.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace qianyi {

// A block has one place, once and for all. With few bytes lent, few blocks have theirs, and
// whatever the number they are spread evenly over the sweep, as the resident ones are: more bytes
// add blocks in the order of van der Corput's sequence. Not thread-safe.
class LentPlaces {
 public:
  // `block_bytes`, multiples of kPageBytes, by number in the sweep; `memory` of `bytes`, untouched,
  // in huge pages of its own.
  LentPlaces(const std::vector<uint64_t>& block_bytes, std::byte* memory, uint64_t bytes);

  enum class State : uint8_t { kOut, kFilling, kHere };
  State state(int block) const { return blocks_[block].state; }
  bool here(int block) const { return state(block) == State::kHere; }
  // Its place; only while it is here or on its way.
  std::byte* at(int block) const { return blocks_[block].at; }
  // Where to read a block to that is out, and is then on its way; null: it has no place now.
  std::byte* Fill(int block);
  void Filled(int block, bool ok);

  // Whether blocks that are here or on their way must leave for a limit.
  bool Drops(uint64_t bytes) const;
  // Uses at most so many bytes from now on; what lies beyond goes back to the system. No block
  // that leaves is on its way or in use.
  void Limit(uint64_t bytes);
  uint64_t bytes_here() const { return bytes_here_; }

 private:
  struct Block {
    std::byte* at = nullptr;
    uint64_t end = ~uint64_t{0};  // in the memory; never within a limit without a place
    uint64_t bytes = 0;
    State state = State::kOut;
  };

  std::vector<Block> blocks_;
  std::byte* const memory_;
  const uint64_t bytes_;
  uint64_t limit_ = 0;
  uint64_t bytes_here_ = 0;
};

}  // namespace qianyi
