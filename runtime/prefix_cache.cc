#include "runtime/prefix_cache.h"

#include <algorithm>
#include <utility>

#include "absl/hash/hash.h"
#include "runtime/adapters/adapter.h"

namespace qianyi {

// Pages after an adapter's prefix do not begin where a page of tokens does.
bool PrefixCache::Suits(const Sequence& sequence) { return sequence.prefix_slots == 0; }

PrefixCache::Scope PrefixCache::ScopeOf(uint64_t flow, const Sequence& sequence) {
  const auto begin = sequence.tokens.begin();
  return {.flow = flow,
          .adapter = sequence.adapter == nullptr ? 0 : sequence.adapter->serial(),
          .context = {begin, begin + sequence.bidirectional}};
}

PrefixCache::Page PrefixCache::PageOf(const Sequence& sequence, int64_t index) {
  Page page;
  const int64_t begin = index * kPageTokens;
  std::copy_n(sequence.tokens.begin() + begin, kPageTokens, page.tokens.begin());
  for (int row : {0, 1}) {
    std::copy_n(sequence.positions[row].begin() + begin, kPageTokens, page.positions[row].begin());
  }
  return page;
}

uint64_t PrefixCache::Hash(int64_t parent, const Page& page) {
  return absl::HashOf(parent, page.tokens);
}

int32_t PrefixCache::Find(int64_t parent, const Page& page) const {
  const auto [begin, end] = index_.equal_range(Hash(parent, page));
  const auto found = std::find_if(begin, end, [&](const auto& entry) {
    const Node& node = nodes_[static_cast<size_t>(entry.second)];
    return node.parent == parent && node.page == page;
  });
  return found == end ? -1 : found->second;
}

int32_t PrefixCache::Take(uint64_t flow, Sequence* sequence) {
  if (!Suits(*sequence) || roots_.empty()) return 0;
  const auto root = roots_.find(ScopeOf(flow, *sequence));
  if (root == roots_.end()) return 0;
  const int64_t most = (static_cast<int64_t>(sequence->tokens.size()) - 1) / kPageTokens;
  std::vector<int32_t> path, pages;
  int64_t parent = root->second.id;
  for (int64_t i = 0; i < most; ++i) {
    const int32_t node = Find(parent, PageOf(*sequence, i));
    if (node < 0) break;
    path.push_back(node);
    pages.push_back(nodes_[static_cast<size_t>(node)].id);
    parent = node;
  }
  Use(path);
  kv_.Share(pages, &sequence->pages);
  sequence->cached = static_cast<int32_t>(pages.size()) * kPageTokens;
  return sequence->cached;
}

void PrefixCache::Keep(uint64_t flow, const Sequence& sequence) {
  const int64_t whole = sequence.cached / kPageTokens;
  if (!Suits(sequence) || whole == 0) return;
  const auto [root, is_new] = roots_.try_emplace(ScopeOf(flow, sequence));
  if (is_new) root->second.id = next_root_--;
  std::vector<int32_t> path;
  int64_t parent = root->second.id;
  for (int64_t i = 0; i < whole; ++i) {
    const Page page = PageOf(sequence, i);
    int32_t node = Find(parent, page);
    if (node < 0) node = Insert(parent, root, page, sequence.pages[static_cast<size_t>(i)]);
    path.push_back(node);
    parent = node;
  }
  Use(path);
}

int32_t PrefixCache::Insert(int64_t parent, Roots::iterator root, const Page& page, int32_t id) {
  int32_t at = static_cast<int32_t>(nodes_.size());
  if (unused_.empty()) {
    nodes_.emplace_back();
  } else {
    at = unused_.back();
    unused_.pop_back();
  }
  nodes_[static_cast<size_t>(at)] = {.page = page, .parent = parent, .root = root, .id = id};
  index_.emplace(Hash(parent, page), at);
  if (parent >= 0) ++nodes_[static_cast<size_t>(parent)].children;
  ++root->second.nodes;
  kv_.Keep(id);
  LinkNewest(at);
  return at;
}

// One without children.
void PrefixCache::Remove(int32_t at) {
  Unlink(at);
  const Node& node = nodes_[static_cast<size_t>(at)];
  const auto [begin, end] = index_.equal_range(Hash(node.parent, node.page));
  index_.erase(std::find_if(begin, end, [at](const auto& entry) { return entry.second == at; }));
  if (node.parent >= 0) --nodes_[static_cast<size_t>(node.parent)].children;
  if (--node.root->second.nodes == 0) roots_.erase(node.root);
  kv_.Drop(node.id);
  unused_.push_back(at);
}

bool PrefixCache::MakeRoom(int64_t pages) {
  if (pages > kv_.free_pages() + kv_.idle_pages()) return false;
  // A node is used when its children are, and after them: the oldest come before their parents.
  for (int32_t at = oldest_; at >= 0 && kv_.free_pages() < pages;) {
    const Node& node = nodes_[static_cast<size_t>(at)];
    const int32_t next = node.newer;
    if (node.children == 0 && kv_.idle(node.id)) Remove(at);
    at = next;
  }
  return kv_.free_pages() >= pages;
}

void PrefixCache::Unlink(int32_t at) {
  const Node& node = nodes_[static_cast<size_t>(at)];
  (node.older < 0 ? oldest_ : nodes_[static_cast<size_t>(node.older)].newer) = node.newer;
  (node.newer < 0 ? newest_ : nodes_[static_cast<size_t>(node.newer)].older) = node.older;
}

void PrefixCache::LinkNewest(int32_t at) {
  Node& node = nodes_[static_cast<size_t>(at)];
  node.older = newest_;
  node.newer = -1;
  (newest_ < 0 ? oldest_ : nodes_[static_cast<size_t>(newest_)].newer) = at;
  newest_ = at;
}

// From the last page to the first, which stays longest.
void PrefixCache::Use(const std::vector<int32_t>& path) {
  for (auto at = path.rbegin(); at != path.rend(); ++at) {
    Unlink(*at);
    LinkNewest(*at);
  }
}

}  // namespace qianyi
