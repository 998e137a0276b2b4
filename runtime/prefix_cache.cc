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
    if (At(node).id >= 0) pages.push_back(At(node).id);
    parent = node;
  }
  Use(path);
  // Those in memory come first, and once they are held none of them goes to disk for the others.
  kv_.Share(pages, &sequence->pages);
  for (const int32_t node : path) At(node).wanted = true;
  size_t there = pages.size();
  while (there < path.size() && Fetch(path[there], &sequence->pages)) ++there;
  for (const int32_t node : path) At(node).wanted = false;
  Use({path.begin(),
       path.begin() + static_cast<int64_t>(there)});  // those read back are the newest
  if (there < path.size() && At(path[there]).damaged) {
    RemoveBelow(path[there]);
    Remove(path[there]);
  }
  sequence->cached = static_cast<int32_t>(there) * kPageTokens;
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
    const int32_t id = sequence.pages[static_cast<size_t>(i)];
    int32_t node = Find(parent, page);
    if (node < 0) {
      node = Insert(parent, root, page, id);
    } else if (At(node).id < 0) {
      EnterMemory(node, id);  // it was computed again
    }
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
  At(at) = {.page = page, .parent = parent, .root = root};
  index_.emplace(Hash(parent, page), at);
  if (parent >= 0) ++At(static_cast<int32_t>(parent)).children;
  ++root->second.nodes;
  LinkNewest(at);
  EnterMemory(at, id);
  return at;
}

// From the line of those on disk only.
void PrefixCache::EnterMemory(int32_t at, int32_t id) {
  Unlink(at);
  Node& node = At(at);
  node.id = id;
  LinkNewest(at);
  if (node.parent >= 0) ++At(static_cast<int32_t>(node.parent)).children_in_memory;
  kv_.Keep(id);
}

void PrefixCache::LeaveMemory(int32_t at) {
  Unlink(at);
  Node& node = At(at);
  kv_.Drop(node.id);
  node.id = -1;
  LinkNewest(at);
  if (node.parent >= 0) --At(static_cast<int32_t>(node.parent)).children_in_memory;
}

// One without children.
void PrefixCache::Remove(int32_t at) {
  if (At(at).id >= 0) LeaveMemory(at);
  Unlink(at);
  Node& node = At(at);
  if (node.place >= 0) file_->Free(node.place);
  const auto [begin, end] = index_.equal_range(Hash(node.parent, node.page));
  index_.erase(std::find_if(begin, end, [at](const auto& entry) { return entry.second == at; }));
  if (node.parent >= 0) --At(static_cast<int32_t>(node.parent)).children;
  if (--node.root->second.nodes == 0) roots_.erase(node.root);
  unused_.push_back(at);
}

// What goes on after a node of which nothing below is in memory. Seldom: it looks through the line.
void PrefixCache::RemoveBelow(int32_t top) {
  while (At(top).children > 0) {
    for (int32_t at = on_disk_.oldest; at >= 0;) {
      const int32_t next = At(at).newer;
      int64_t above = at;
      while (above >= 0 && above != top) above = At(static_cast<int32_t>(above)).parent;
      if (above == top && at != top && At(at).children == 0) Remove(at);
      at = next;
    }
  }
}

// ---- Disk ----

// A free place in the file: that of a page which is in memory as well, or the longest unused goes.
// False when all are wanted.
bool PrefixCache::MakeRoomOnDisk() {
  for (int32_t at = in_memory_.newest; at >= 0 && file_->full(); at = At(at).older) {
    if (At(at).place < 0) continue;
    file_->Free(At(at).place);
    At(at).place = -1;
  }
  for (int32_t at = on_disk_.oldest; at >= 0 && file_->full(); at = At(at).newer) {
    if (At(at).children > 0 || At(at).wanted) continue;
    Remove(at);
    break;
  }
  return !file_->full();
}

// Writes a page that is not in the file yet; false where there is no file, no room, or no disk.
bool PrefixCache::Save(int32_t at) {
  if (At(at).place >= 0) return true;
  if (file_ == nullptr || !MakeRoomOnDisk()) return false;
  kv_.CopyOut(At(at).id, file_->page());
  At(at).place = file_->Write();
  return At(at).place >= 0;
}

// One in memory, held by nobody, without children there.
void PrefixCache::Evict(int32_t at) {
  if (Save(at)) return LeaveMemory(at);
  RemoveBelow(at);
  Remove(at);
}

// Reads a page back, into one that `table` holds from then on.
bool PrefixCache::Fetch(int32_t at, std::vector<int32_t>* table) {
  if (!MakeRoom(1)) return false;
  if (!file_->Read(At(at).place)) {
    At(at).damaged = true;
    return false;
  }
  kv_.Reserve(static_cast<int64_t>(table->size() + 1) * kPageTokens, table);
  kv_.CopyIn(table->back(), file_->page());
  EnterMemory(at, table->back());
  return true;
}

bool PrefixCache::MakeRoom(int64_t pages) {
  if (pages > kv_.free_pages() + kv_.idle_pages()) return false;
  // A node is used when its children are, and after them: the oldest come before their parents.
  for (int32_t at = in_memory_.oldest; at >= 0 && kv_.free_pages() < pages;) {
    const int32_t next = At(at).newer;
    if (At(at).children_in_memory == 0 && kv_.idle(At(at).id)) Evict(at);
    at = next;
  }
  return kv_.free_pages() >= pages;
}

void PrefixCache::Age(int64_t steps) {
  for (int32_t at = in_memory_.oldest; at >= 0 && now_ - At(at).used > steps;) {
    const int32_t next = At(at).newer;
    if (At(at).children_in_memory == 0 && kv_.idle(At(at).id)) Evict(at);
    at = next;
  }
}

void PrefixCache::Unlink(int32_t at) {
  const Node& node = At(at);
  Line& line = LineOf(node);
  (node.older < 0 ? line.oldest : At(node.older).newer) = node.newer;
  (node.newer < 0 ? line.newest : At(node.newer).older) = node.older;
}

void PrefixCache::LinkNewest(int32_t at) {
  Node& node = At(at);
  Line& line = LineOf(node);
  node.older = line.newest;
  node.newer = -1;
  (line.newest < 0 ? line.oldest : At(line.newest).newer) = at;
  line.newest = at;
}

// From the last page to the first, which stays longest.
void PrefixCache::Use(const std::vector<int32_t>& path) {
  for (auto at = path.rbegin(); at != path.rend(); ++at) {
    Unlink(*at);
    LinkNewest(*at);
    At(*at).used = now_;
  }
}

}  // namespace qianyi
