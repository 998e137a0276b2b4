// Finds the longest of a set of words at a place in a text.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string_view>
#include <unordered_set>
#include <vector>

namespace qianyi {

// Views the words, which are not empty. A match costs a look-up for each length there is.
class LongestWord {
 public:
  void Add(std::string_view word) {
    starts_[static_cast<uint8_t>(word[0])] = true;
    words_.insert(word);
    const auto at =
        std::lower_bound(lengths_.begin(), lengths_.end(), word.size(), std::greater<>());
    if (at == lengths_.end() || *at != word.size()) lengths_.insert(at, word.size());
  }
  // Bytes of the longest word at the start of `text`, which is not empty, or 0.
  size_t Match(std::string_view text) const {
    if (!starts_[static_cast<uint8_t>(text[0])]) return 0;
    for (const size_t length : lengths_) {
      if (length <= text.size() && words_.count(text.substr(0, length)) > 0) return length;
    }
    return 0;
  }

 private:
  bool starts_[256] = {};        // first bytes
  std::vector<size_t> lengths_;  // longest first
  std::unordered_set<std::string_view> words_;
};

}  // namespace qianyi
