#include "runtime/branches.h"

#include <algorithm>
#include <utility>

namespace qianyi {

Branches::Branches(KvCache& kv, PrefixCache& prefixes, const ModelUse& use, bool always)
    : kv_(kv),
      prefixes_(prefixes),
      most_(use.branches),
      control_(always),
      branches_(static_cast<size_t>(use.branches)) {
  for (Branch& branch : branches_) {
    branch.sequence.tokens.reserve(LogitRows(use));
    for (std::vector<int32_t>& row : branch.sequence.positions) row.reserve(LogitRows(use));
    branch.sequence.pages.reserve(KvCache::PagesFor(use.context_tokens));
  }
}

int32_t Branches::Add(int place, const Generation& generation, int32_t from,
                      std::span<const int32_t> tokens, int64_t* rows) {
  const int64_t again = int64_t{from} + 1;
  const int64_t fits = std::min<int64_t>(room(), *rows - again);
  if (fits <= 0 || count_ == branches_.size() || tokens.empty()) return 0;
  if (Find(place, from, tokens.front()) != nullptr) return 0;
  Branch& branch = branches_[count_];
  const auto own = generation.Branch(
      from, tokens.first(std::min<size_t>(tokens.size(), static_cast<size_t>(fits))),
      &branch.sequence);
  if (own == 0) return 0;
  const Sequence& target = generation.sequence;
  const int64_t shared = branch.sequence.prefix_slots;
  const int64_t slots = shared + again + own;
  if (!prefixes_.MakeRoom(KvCache::PagesFor(slots) - shared / kPageTokens) ||
      !kv_.ReserveShared(target.pages, shared, slots, &branch.sequence.pages)) {
    return 0;
  }
  kv_.CopyShared(target.pages, shared, branch.sequence.pages);
  branch.place = place;
  branch.from = from;
  ++count_;
  own_ += own;
  again_ += again;
  *rows -= again + own;
  return own;
}

void Branches::AddRepeated(int place, const Generation& generation, int32_t tokens, int64_t* rows) {
  const Sequence& sequence = generation.sequence;
  if (sequence.guessed == 0) return;
  const std::span<const int32_t> all = sequence.tokens;
  const auto guesses = all.last(static_cast<size_t>(sequence.guessed));
  const int32_t longest = std::max(1, tokens / 2);  // so that there may be two
  LookUpAll(all.first(all.size() - guesses.size()), sequence.guessed + longest,
            [&](std::span<const int32_t> following) {
              const auto differs = std::ranges::mismatch(following, guesses);
              if (differs.in1 == following.end() || differs.in2 == guesses.end()) return true;
              const auto from = static_cast<int32_t>(differs.in1 - following.begin());
              const std::span<const int32_t> own(differs.in1, following.end());
              const auto fits = static_cast<size_t>(std::min(tokens, longest));
              tokens -= Add(place, generation, from, own.first(std::min(own.size(), fits)), rows);
              return tokens > 0 && room() > 0;
            });
}

void Branches::Locate(const Step& step, int first) {
  for (Branch& branch : all()) branch.begin = branch.end = 0;
  for (int64_t row = 0; row < static_cast<int64_t>(step.logit_tokens.size()); ++row) {
    const int index = step.sequences[step.logit_tokens[row]] - first;
    if (index < 0) continue;
    Branch& branch = branches_[static_cast<size_t>(index)];
    if (branch.end == 0) branch.begin = row;
    branch.end = row + 1;
  }
}

const Branch* Branches::Find(int place, int32_t from, int32_t token) const {
  for (size_t i = 0; i < count_; ++i) {
    const Branch& branch = branches_[i];
    if (branch.place == place && branch.from == from && branch.first_token() == token) {
      return &branch;
    }
  }
  return nullptr;
}

void Branches::Take(const Branch& branch, Sequence* sequence) {
  Branch& taken = branches_[static_cast<size_t>(&branch - branches_.data())];
  std::vector<int32_t>& pages = taken.sequence.pages;
  const size_t whole = static_cast<size_t>(branch.sequence.prefix_slots) / kPageTokens;
  for (size_t i = whole; i < pages.size(); ++i) std::swap(pages[i], sequence->pages[i]);
}

void Branches::Clear() {
  for (Branch& branch : all()) kv_.Release(&branch.sequence.pages);
  count_ = 0;
  own_ = again_ = 0;
}

}  // namespace qianyi
