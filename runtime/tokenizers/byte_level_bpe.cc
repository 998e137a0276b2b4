#include "runtime/tokenizers/byte_level_bpe.h"

#include <algorithm>
#include <cstddef>
#include <limits>
#include <type_traits>

#include "absl/strings/str_cat.h"

namespace qianyi {

bool BytePairRanks::Add(std::string_view bytes, int32_t id) {
  longest_ = std::max(longest_, bytes.size());
  return ids_.emplace(bytes, id).second;
}

int32_t BytePairRanks::Find(std::string_view bytes) const {
  if (bytes.size() > longest_) return -1;  // so that a long word costs no more than its tokens
  const auto at = ids_.find(bytes);
  return at == ids_.end() ? -1 : at->second;
}

const BytePairMerge* BytePairRanks::Find(int32_t, int32_t, std::string_view joined,
                                         BytePairMerge* room) const {
  const int32_t id = Find(joined);
  if (id < 0) return nullptr;
  *room = {static_cast<uint32_t>(id), id};
  return room;
}

template <class R>
void ByteLevelBpe::EncodeWords(const R& rules, std::string_view text,
                               std::vector<int32_t>* ids) const {
  BytePairMerger<R> merger(rules, BytePairMerger<R>::Order::kPairByPair);
  const BytePairRanks* whole_words = &whole_words_;
  if constexpr (std::is_same_v<R, BytePairRanks>) whole_words = &rules;
  while (!text.empty()) {
    const std::string_view word = text.substr(0, FirstWord(text, pattern_));
    text.remove_prefix(word.size());
    if (const int32_t id = whole_words->Find(word); id >= 0) {
      ids->push_back(id);
    } else {
      merger.Word(word, ids);
    }
  }
}

absl::Status ByteLevelBpe::Encode(std::string_view text, std::vector<int32_t>* ids) const {
  if (text.size() >= static_cast<size_t>(std::numeric_limits<int32_t>::max())) {
    return absl::InvalidArgumentError(
        absl::StrCat("the text has ", text.size(), " bytes; at most 2147483646 can be encoded"));
  }
  std::visit([&](const auto& rules) { EncodeWords(rules, text, ids); }, rules_);
  return absl::OkStatus();
}

std::string_view ByteLevelBpe::Bytes(int32_t id, bool* run_start) const {
  const std::string_view bytes = tokens_.Bytes(id);
  if (!bytes.empty()) *run_start = false;
  return bytes;
}

}  // namespace qianyi
