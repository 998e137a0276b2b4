// What sequences began with before: keys and values that need not be computed again.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <map>
#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

#include "kernels/kv_layer.h"
#include "runtime/kv_cache.h"
#include "runtime/page_file.h"
#include "runtime/sequence.h"

namespace qianyi {

// A tree of whole pages by the tokens in them and before them, after RadixAttention (Zheng et al.,
// SGLang, 2023). Tokens and positions are compared, not their hashes, and what was kept for one
// flow is given to that flow alone: neither a collision nor the time an answer takes tells of
// another's prompt. It takes no memory but its index, a three-hundredth of the pages or less: pages
// that nobody holds are kept until somebody needs them, the longest unused first. With a file they
// go to disk then, and come back when they are asked for. Owned by the engine's thread; allocates
// and waits for the disk when a request comes or goes, never in between.
class PrefixCache {
 public:
  // `kv` outlives it. `file`: for pages of that cache, or null; then `kv` is in host memory.
  explicit PrefixCache(KvCache& kv, std::unique_ptr<PageFile> file = nullptr)
      : kv_(kv), file_(std::move(file)) {}

  // Gives a sequence without pages those of the longest beginning that is kept, and counts their
  // tokens as cached; its last token stays to be computed, for its logits. How many tokens.
  int32_t Take(uint64_t flow, Sequence* sequence);
  // Keeps the whole pages of what `sequence` has cached. They must not be written again.
  void Keep(uint64_t flow, const Sequence& sequence);
  // Drops what is kept, or puts it on disk, until so many pages are free; false when there are too
  // few.
  bool MakeRoom(int64_t pages);
  // A step has passed.
  void Tick() { ++now_; }
  // Drops, or puts on disk, what nobody has used for more than so many steps.
  void Age(int64_t steps);
  // Pages that are on disk, in memory as well or not.
  int64_t pages_on_disk() const { return file_ == nullptr ? 0 : file_->used(); }

 private:
  // What keys and values depend on besides the tokens before them.
  struct Scope {
    uint64_t flow = 0;
    uint64_t adapter = 0;          // its serial number
    std::vector<int32_t> context;  // of a bidirectional one, which all its tokens see
    auto operator<=>(const Scope&) const = default;
  };
  struct Root {
    int64_t id = 0;  // below 0
    int64_t nodes = 0;
  };
  using Roots = std::map<Scope, Root>;
  struct Page {
    std::array<int32_t, kPageTokens> tokens;
    std::array<std::array<int32_t, kPageTokens>, 2> positions;
    bool operator==(const Page&) const = default;
  };
  struct Node {
    Page page;
    int64_t parent = 0;  // a node, or a root's id
    Roots::iterator root;
    int32_t id = -1;       // of the page in the cache; -1: it is on disk only, and so is all below
    int32_t place = -1;    // in the file, or -1
    int32_t children = 0;  // of which so many are in memory:
    int32_t children_in_memory = 0;
    int64_t used = 0;                // the step in which it was, last
    bool wanted = false;             // by the sequence that comes just now
    bool damaged = false;            // on disk
    int32_t older = -1, newer = -1;  // by use, among those in memory or those on disk only
  };
  struct Line {
    int32_t oldest = -1, newest = -1;
  };

  static bool Suits(const Sequence& sequence);
  static Scope ScopeOf(uint64_t flow, const Sequence& sequence);
  static Page PageOf(const Sequence& sequence, int64_t index);
  static uint64_t Hash(int64_t parent, const Page& page);
  int32_t Find(int64_t parent, const Page& page) const;  // -1: there is none
  int32_t Insert(int64_t parent, Roots::iterator root, const Page& page, int32_t id);
  void Remove(int32_t node);
  void RemoveBelow(int32_t node);
  bool MakeRoomOnDisk();
  bool Save(int32_t node);
  void Evict(int32_t node);
  bool Fetch(int32_t node, std::vector<int32_t>* table);
  void EnterMemory(int32_t node, int32_t id);
  void LeaveMemory(int32_t node);
  Node& At(int32_t node) { return nodes_[static_cast<size_t>(node)]; }
  Line& LineOf(const Node& node) { return node.id >= 0 ? in_memory_ : on_disk_; }
  void Unlink(int32_t node);
  void LinkNewest(int32_t node);
  void Use(const std::vector<int32_t>& path);

  KvCache& kv_;
  const std::unique_ptr<PageFile> file_;
  Roots roots_;
  int64_t next_root_ = -1;
  std::vector<Node> nodes_;
  std::vector<int32_t> unused_;  // places in nodes_
  std::unordered_multimap<uint64_t, int32_t> index_;
  Line in_memory_, on_disk_;
  int64_t now_ = 0;  // steps
};

}  // namespace qianyi
