// The bytes of a vocabulary's tokens, by id; ids between may be missing.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace qianyi {

class TokenTable {
 public:
  // False when the id, which is at most kMaxTokenId, has bytes already.
  bool Add(int32_t id, std::string_view bytes) {
    if (id >= size()) entries_.resize(static_cast<size_t>(id) + 1);
    Entry& entry = entries_[static_cast<size_t>(id)];
    if (entry.present) return false;
    entry = {static_cast<uint32_t>(bytes_.size()), static_cast<uint32_t>(bytes.size()), true};
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
    return true;
  }
  int32_t size() const { return static_cast<int32_t>(entries_.size()); }
  bool Contains(int32_t id) const {
    return id >= 0 && id < size() && entries_[static_cast<size_t>(id)].present;
  }
  // Empty when it is not contained. Valid until the next Add, also when this is moved.
  std::string_view Bytes(int32_t id) const {
    if (!Contains(id)) return {};
    const Entry& entry = entries_[static_cast<size_t>(id)];
    return std::string_view(bytes_.data() + entry.begin, entry.length);
  }

 private:
  struct Entry {
    uint32_t begin = 0;  // in bytes_
    uint32_t length = 0;
    bool present = false;
  };
  std::vector<char> bytes_;  // so that views of it outlive a move
  std::vector<Entry> entries_;
};

}  // namespace qianyi
