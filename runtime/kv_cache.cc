#include "runtime/kv_cache.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "runtime/memory_size.h"

namespace qianyi {
namespace {

size_t LayerPageBytes(const KvSpec& spec, DType dtype) {
  const KvLayer layer = {.dtype = dtype,
                         .kv_heads = spec.heads,
                         .key_dim = spec.key_dim,
                         .value_dim = spec.value_dim,
                         .values_in_keys = spec.values_in_keys};
  return layer.used_page_bytes();
}

}  // namespace

size_t KvCache::PageBytes(const KvSpec& spec, DType dtype) {
  return spec.layers * LayerPageBytes(spec, dtype);
}

KvCache::KvCache(const KvSpec& spec, DType dtype, int64_t pages, const Backend& backend,
                 int64_t shared_pages, int mapped_layers)
    : spec_(spec),
      dtype_(dtype),
      pages_(pages),
      shared_pages_(shared_pages),
      mapped_layers_(mapped_layers),
      backend_(backend),
      layer_page_bytes_(LayerPageBytes(spec, dtype)) {
  free_.reserve(pages);
  holders_.assign(pages, 0);
  kept_.assign(pages, false);
  for (int64_t page = 0; page < pages; ++page) free_.push_back(static_cast<int32_t>(page));
}

absl::StatusOr<std::unique_ptr<KvCache>> KvCache::Create(const KvSpec& spec, DType dtype,
                                                         int64_t pages, const Backend& backend,
                                                         int64_t shared_pages, int mapped_layers) {
  std::unique_ptr<KvCache> cache(
      new KvCache(spec, dtype, pages, backend, shared_pages, mapped_layers));
  if (cache->Allocate()) return cache;
  return absl::ResourceExhaustedError(absl::StrFormat(
      "no memory for a key-value cache of %d tokens (%.1f MiB); lower --context or --batch",
      pages * kPageTokens, (cache->device_bytes() + cache->mapped_bytes()) / 1048576.0));
}

bool KvCache::Allocate() {
  if (device_bytes() > 0) {
    memory_ = static_cast<std::byte*>(backend_.alloc(device_bytes()));
    if (memory_ == nullptr) return false;
  }
  if (mapped_bytes() > 0) {
    mapped_ = static_cast<std::byte*>(backend_.alloc_mapped(mapped_bytes()));
    if (mapped_ == nullptr) return false;
  }
  std::byte *here = memory_, *there = mapped_;
  for (int64_t i = 0; i < spec_.layers; ++i) {
    const bool mapped = (i + 1) * mapped_layers_ / spec_.layers > i * mapped_layers_ / spec_.layers;
    std::byte*& at = mapped ? there : here;
    layers_.push_back(at);
    at += layer_bytes();
  }
  return true;
}

KvCache::~KvCache() {
  if (memory_ != nullptr) backend_.free(memory_, device_bytes());
  if (mapped_ != nullptr) backend_.free_mapped(mapped_, mapped_bytes());
}

KvLayer KvCache::layer(int index) const {
  return {.pages = layers_[index],
          .page_bytes = layer_page_bytes_,
          .dtype = dtype_,
          .kv_heads = spec_.heads,
          .key_dim = spec_.key_dim,
          .value_dim = spec_.value_dim,
          .values_in_keys = spec_.values_in_keys};
}

bool KvCache::Reserve(int64_t tokens, std::vector<int32_t>* table) {
  const int64_t missing = PagesFor(tokens) - static_cast<int64_t>(table->size());
  if (missing > free_pages()) return false;
  int64_t last = -1;
  for (int64_t i = 0; i < missing; ++i) {
    std::pop_heap(free_.begin(), free_.end(), std::greater<>());
    last = free_.back();
    table->push_back(free_.back());
    holders_[free_.back()] = 1;
    free_.pop_back();
  }
  if (lend_ && last >= lent_from_) {
    lent_from_ = last + 1;
    lend_(BytesBehind(lent_from_));
  }
  return true;
}

void KvCache::Free(int32_t page) {
  free_.push_back(page);
  std::push_heap(free_.begin(), free_.end(), std::greater<>());
}

// Whole huge pages of the layer's memory behind the pages below `page`.
std::span<std::byte> KvCache::Behind(int index, int64_t page) const {
  const auto rounded = [](std::byte* at, uint64_t up) {
    const uint64_t past = reinterpret_cast<uintptr_t>(at) % kHugePageBytes;
    return past == 0 ? at : at - past + up;
  };
  std::byte* const pages = layer(index).pages;
  std::byte* const begin = rounded(pages + page * layer_page_bytes_, kHugePageBytes);
  std::byte* const end = rounded(pages + pages_ * layer_page_bytes_, 0);
  return begin < end ? std::span(begin, end) : std::span<std::byte>();
}

uint64_t KvCache::BytesBehind(int64_t page) const {
  uint64_t bytes = 0;
  for (int i = 0; i < spec_.layers; ++i) bytes += Behind(i, page).size();
  return bytes;
}

void KvCache::Lend(std::function<void(uint64_t bytes)> lend) {
  lend_ = std::move(lend);
  lent_from_ = pages_;
  LendIdle();
}

void KvCache::LendIdle() {
  if (!lend_) return;
  int64_t from = lent_from_;
  while (from > 0 && holders_[from - 1] == 0 && !kept_[from - 1]) --from;
  if (from == lent_from_) return;
  for (int i = 0; i < spec_.layers; ++i) {
    const std::span<std::byte> now = Behind(i, from), before = Behind(i, lent_from_);
    GiveBack(now.data(), now.size() - before.size());
  }
  lent_from_ = from;
  lend_(BytesBehind(from));
}

bool KvCache::ReserveAfter(const KvPrefix& prefix, int64_t tokens, std::vector<int32_t>* table) {
  const int64_t whole = prefix.slots / kPageTokens;
  if (PagesFor(prefix.slots + tokens) - whole > free_pages()) return false;
  table->assign(prefix.pages.begin(), prefix.pages.begin() + whole);
  Reserve(prefix.slots + tokens, table);
  if (prefix.slots % kPageTokens == 0) return true;
  CopyPage(prefix.pages[whole], (*table)[whole]);
  return true;
}

void KvCache::CopyPage(int32_t from, int32_t to) {
  for (int i = 0; i < spec_.layers; ++i) {
    std::byte* pages = layer(i).pages;
    backend_.copy(pages + to * layer_page_bytes_, pages + from * layer_page_bytes_,
                  layer_page_bytes_, stream_);
  }
}

bool KvCache::ReserveShared(const std::vector<int32_t>& from, int64_t shared, int64_t slots,
                            std::vector<int32_t>* table) {
  const int64_t whole = shared / kPageTokens;
  if (PagesFor(slots) - whole > free_pages()) return false;
  table->clear();
  Share(std::span(from).first(whole), table);
  return Reserve(slots, table);
}

void KvCache::Share(std::span<const int32_t> pages, std::vector<int32_t>* table) {
  for (const int32_t page : pages) {
    table->push_back(page);
    if (page >= pages_) continue;
    if (idle(page)) --idle_;
    ++holders_[page];
  }
}

void KvCache::CopyShared(const std::vector<int32_t>& from, int64_t shared,
                         const std::vector<int32_t>& table) {
  const int64_t whole = shared / kPageTokens;
  if (shared % kPageTokens != 0) CopyPage(from[whole], table[whole]);
}

void KvCache::Release(std::vector<int32_t>* table) {
  for (auto page = table->rbegin(); page != table->rend(); ++page) {
    if (*page >= pages_) continue;
    if (--holders_[*page] > 0) continue;
    if (kept_[*page]) {
      ++idle_;
    } else {
      Free(*page);
    }
  }
  table->clear();
}

void KvCache::CopyOut(int32_t page, std::span<std::byte> bytes) const {
  for (int i = 0; i < spec_.layers; ++i) {
    std::memcpy(bytes.data() + i * layer_page_bytes_, layer(i).pages + page * layer_page_bytes_,
                layer_page_bytes_);
  }
}

void KvCache::CopyIn(int32_t page, std::span<const std::byte> bytes) {
  for (int i = 0; i < spec_.layers; ++i) {
    std::memcpy(layer(i).pages + page * layer_page_bytes_, bytes.data() + i * layer_page_bytes_,
                layer_page_bytes_);
  }
}

void KvCache::Drop(int32_t page) {
  if (idle(page)) {
    --idle_;
    Free(page);
  }
  kept_[page] = false;
}

}  // namespace qianyi
