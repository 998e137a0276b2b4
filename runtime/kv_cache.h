// Keys and values of all sequences of one model, in pages of kPageTokens tokens.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "runtime/model_spec.h"

namespace qianyi {

// Keys and values that many sequences begin with, computed once: slots [0, slots) of `pages`.
struct KvPrefix {
  std::vector<int32_t> pages;
  int32_t slots = 0;
};

// Owned by the engine's thread. A page id stands for the same page in every layer. Beside the
// pages of sequences there are `shared_pages` more, which others hand out: see AdapterPool.
class KvCache {
 public:
  // Bytes of one page over all layers.
  static size_t PageBytes(const KvSpec& spec, DType dtype);
  static int64_t PagesFor(int64_t tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }

  // ResourceExhausted when the backend has no room. With a device, `mapped_layers` of the layers,
  // evenly spaced, have their pages in memory of the host, which kernels reach over the link.
  static absl::StatusOr<std::unique_ptr<KvCache>> Create(const KvSpec& spec, DType dtype,
                                                         int64_t pages, const Backend& backend,
                                                         int64_t shared_pages = 0,
                                                         int mapped_layers = 0);
  // Where pages are copied on a device with memory of its own: the stream of the steps.
  void UseStream(Stream stream) { stream_ = stream; }
  ~KvCache();
  KvCache(const KvCache&) = delete;
  KvCache& operator=(const KvCache&) = delete;

  KvLayer layer(int index) const;
  DType dtype() const { return dtype_; }
  int64_t pages() const { return pages_; }  // of sequences; the ids after them are shared ones
  int64_t shared_pages() const { return shared_pages_; }
  int64_t free_pages() const { return static_cast<int64_t>(free_.size()); }
  int64_t idle_pages() const { return idle_; }  // kept, and held by no sequence

  // Appends pages to `table` until it holds `tokens`; false (and nothing changed) when there
  // are too few free ones.
  bool Reserve(int64_t tokens, std::vector<int32_t>* table);
  // The same for an empty table and `tokens` after a prefix. Its whole pages are shared; a last
  // page that it fills in part is copied, since the sequence goes on in it.
  bool ReserveAfter(const KvPrefix& prefix, int64_t tokens, std::vector<int32_t>* table);
  // Pages for a sequence that begins with the first `shared` slots of another one, which holds the
  // pages of `from`, and has `slots` in all: whole pages are held by both. A last one that the
  // shared slots fill in part is its own; CopyShared fills it once the other has been computed.
  bool ReserveShared(const std::vector<int32_t>& from, int64_t shared, int64_t slots,
                     std::vector<int32_t>* table);
  void CopyShared(const std::vector<int32_t>& from, int64_t shared,
                  const std::vector<int32_t>& table);
  // Appends pages that are kept, or held by another sequence, which the sequence is to hold too.
  void Share(std::span<const int32_t> pages, std::vector<int32_t>* table);
  // Gives back the sequence's pages. Those that no other holds are free, or idle when they are
  // kept.
  void Release(std::vector<int32_t>* table);
  // A page that a sequence holds stays when nobody does any more, until it is dropped.
  void Keep(int32_t page) { kept_[page] = true; }
  void Drop(int32_t page);
  bool idle(int32_t page) const { return kept_[page] && holders_[page] == 0; }

  // From now on `lend` hears how many bytes of the cache's memory nobody needs: those behind the
  // last page in use, since pages are given out from the first on. With fewer before pages are
  // given out that lie there; with more in LendIdle. They have been given back to the system. In
  // host memory only.
  void Lend(std::function<void(uint64_t bytes)> lend);
  void LendIdle();

  // All layers of a page, one after the other, PageBytes in all. In host memory only.
  size_t page_bytes() const { return PageBytes(spec_, dtype_); }
  void CopyOut(int32_t page, std::span<std::byte> bytes) const;
  void CopyIn(int32_t page, std::span<const std::byte> bytes);

 private:
  KvCache(const KvSpec& spec, DType dtype, int64_t pages, const Backend& backend,
          int64_t shared_pages, int mapped_layers);
  bool Allocate();
  size_t layer_bytes() const { return (pages_ + shared_pages_) * layer_page_bytes_; }
  size_t device_bytes() const { return (spec_.layers - mapped_layers_) * layer_bytes(); }
  size_t mapped_bytes() const { return mapped_layers_ * layer_bytes(); }
  void Free(int32_t page);
  std::span<std::byte> Behind(int layer, int64_t page) const;
  uint64_t BytesBehind(int64_t page) const;
  void CopyPage(int32_t from, int32_t to);

  const KvSpec spec_;
  const DType dtype_;
  const int64_t pages_;
  const int64_t shared_pages_;
  const int mapped_layers_;
  const Backend& backend_;
  const size_t layer_page_bytes_;
  Stream stream_;
  std::byte* memory_ = nullptr;     // [layers that are not mapped][layer_bytes()]
  std::byte* mapped_ = nullptr;     // [mapped_layers_][layer_bytes()]
  std::vector<std::byte*> layers_;  // by layer: its pages, then the shared ones
  std::vector<int32_t> free_;       // a heap: the lowest is given out first
  std::vector<int32_t> holders_;    // by page: sequences
  std::vector<bool> kept_;
  int64_t idle_ = 0;
  std::function<void(uint64_t)> lend_;  // or null
  int64_t lent_from_ = 0;               // this page and those behind it are lent
};

}  // namespace qianyi
