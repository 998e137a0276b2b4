#include "runtime/generation.h"

#include <algorithm>
#include <iterator>
#include <numeric>

namespace qianyi {

int32_t Generation::Branch(int32_t from, std::span<const int32_t> tokens, Sequence* branch) const {
  const int32_t last = static_cast<int32_t>(sequence.tokens.size()) - sequence.guessed - 1;
  const int32_t room = max_tokens_ - generated_ - 1 - from;
  const auto own = static_cast<int32_t>(std::min<int64_t>(std::ssize(tokens), room));
  if (!prompt_.continuation.empty() || last < sequence.bidirectional || own <= 0) return 0;
  branch->tokens.clear();
  for (std::vector<int32_t>& row : branch->positions) row.clear();
  for (int32_t at = last; at <= last + from; ++at) {
    branch->Append(sequence.tokens[at], sequence.positions[0][at], sequence.positions[1][at]);
  }
  const int32_t fed = fed_ - sequence.guessed + from;
  for (int32_t i = 0; i < own; ++i) Feed(tokens[i], fed + i, branch);
  branch->adapter = sequence.adapter;
  branch->prefix_slots = sequence.prefix_slots + last;
  branch->cached = 0;
  branch->guessed = own - 1;
  branch->again = from + 1;
  return own;
}

void Generation::Refill() {
  std::vector<int32_t>& tokens = sequence.tokens;
  tokens.resize(sequence.bidirectional);
  const auto mask = tokens.begin() + prompt_.blanks[blank_].mask + shift_;
  const auto after = tokens.erase(mask);
  tokens.insert(after, filled_.begin(), filled_.end());
  shift_ += static_cast<int32_t>(filled_.size()) - 1;
  sequence.bidirectional = static_cast<int32_t>(tokens.size());
  for (int row : {0, 1}) sequence.positions[row].assign(tokens.size(), 0);
  std::iota(sequence.positions[0].begin(), sequence.positions[0].end(), 0);
  sequence.cached = 0;
  filled_.clear();
}

}  // namespace qianyi
