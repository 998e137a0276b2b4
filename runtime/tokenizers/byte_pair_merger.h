// Byte-pair merging (Sennrich et al. 2016) of one word at a time, for every vocabulary of bytes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace qianyi {

struct BytePairMerge {
  uint32_t rank;   // lower is sooner; at most UINT32_MAX - 1
  int32_t symbol;  // what the pair becomes
};

// Rules that list the pairs: (left symbol, right symbol) to what they become.
class BytePairTable {
 public:
  int32_t byte_symbols[256] = {};

  // Of a repeated pair the last counts.
  void Set(int32_t left, int32_t right, BytePairMerge merge) { pairs_[Key(left, right)] = merge; }
  int32_t ByteSymbol(uint8_t byte) const { return byte_symbols[byte]; }
  const BytePairMerge* Find(int32_t left, int32_t right, std::string_view, BytePairMerge*) const {
    const auto pair = pairs_.find(Key(left, right));
    return pair == pairs_.end() ? nullptr : &pair->second;
  }

 private:
  static uint64_t Key(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  std::unordered_map<uint64_t, BytePairMerge> pairs_;
};

// Takes the pair of lowest rank, the leftmost among equals, joins it and looks again, with a heap
// of (rank, position): O(n log n) steps in the bytes of a word. GPT-2's original joins all
// occurrences of a rank before it looks again (kRankAtOnce), which differs when a merge file lets
// a pair come into being whose rank is lower. `Rules` has ByteSymbol and Find like
// BytePairTable's; the last argument of Find is room for a result. Holds the scratch of one
// Encode.
template <class Rules>
class BytePairMerger {
 public:
  enum class Order { kRankAtOnce, kPairByPair };

  BytePairMerger(const Rules& rules, Order order) : rules_(rules), order_(order) {}

  // Appends the symbols of a word of at least one and at most INT32_MAX bytes.
  void Word(std::string_view word, std::vector<int32_t>* symbols) {
    word_ = word;
    nodes_.clear();
    heap_.clear();
    const int32_t count = static_cast<int32_t>(word.size());
    for (int32_t i = 0; i < count; ++i) {
      const uint8_t byte = static_cast<uint8_t>(word[static_cast<size_t>(i)]);
      nodes_.push_back({.symbol = rules_.ByteSymbol(byte),
                        .previous = i - 1,
                        .next = i + 1 < count ? i + 1 : -1});
    }
    for (int32_t i = 0; i + 1 < count; ++i) Rate(i);
    std::make_heap(heap_.begin(), heap_.end(), std::greater<>());
    while (!heap_.empty()) MergeNext();
    for (int32_t at = 0; at >= 0; at = node(at).next) symbols->push_back(node(at).symbol);
  }

 private:
  static constexpr uint32_t kNoRank = std::numeric_limits<uint32_t>::max();
  struct Node {  // its index is where it begins in the word
    int32_t symbol = 0;
    int32_t previous = -1;  // -1 at the ends
    int32_t next = -1;
    int32_t joined = 0;       // what (this, next) becomes
    uint32_t rank = kNoRank;  // of (this, next); kNoRank when they do not merge or this is gone
  };

  Node& node(int32_t at) { return nodes_[static_cast<size_t>(at)]; }

  // Looks up the pair that begins at `at` and, if it merges, appends it to the heap's array.
  bool Rate(int32_t at) {
    Node& left = node(at);
    if (left.next < 0) return false;
    const Node& right = node(left.next);
    const size_t end = right.next < 0 ? word_.size() : static_cast<size_t>(right.next);
    BytePairMerge room;
    const BytePairMerge* merge =
        rules_.Find(left.symbol, right.symbol,
                    word_.substr(static_cast<size_t>(at), end - static_cast<size_t>(at)), &room);
    if (merge == nullptr) return false;
    left.rank = merge->rank;
    left.joined = merge->symbol;
    heap_.push_back(static_cast<uint64_t>(left.rank) << 32 | static_cast<uint32_t>(at));
    return true;
  }

  // In kRankAtOnce the occurrences of a rank are worked off from left to right, and pairs that
  // come into being meanwhile wait until that is done.
  void MergeNext() {
    const uint32_t rank = static_cast<uint32_t>(heap_.front() >> 32);
    changed_.clear();
    do {
      const int32_t at = static_cast<int32_t>(heap_.front() & 0xFFFFFFFF);
      std::pop_heap(heap_.begin(), heap_.end(), std::greater<>());
      heap_.pop_back();
      if (node(at).rank == rank) Join(at);
    } while (order_ == Order::kRankAtOnce && !heap_.empty() && heap_.front() >> 32 == rank);
    for (const int32_t at : changed_) {
      if (node(at).rank == kNoRank && Rate(at)) {
        std::push_heap(heap_.begin(), heap_.end(), std::greater<>());
      }
    }
  }

  void Join(int32_t at) {
    Node& left = node(at);
    Node& right = node(left.next);
    left.symbol = left.joined;
    left.rank = kNoRank;
    right.rank = kNoRank;
    left.next = right.next;
    if (left.next >= 0) node(left.next).previous = at;
    if (left.previous >= 0) {
      node(left.previous).rank = kNoRank;
      changed_.push_back(left.previous);
    }
    changed_.push_back(at);
  }

  const Rules& rules_;
  const Order order_;
  std::string_view word_;
  std::vector<Node> nodes_;  // one per byte of the word
  std::vector<uint64_t> heap_;
  std::vector<int32_t> changed_;
};

}  // namespace qianyi
