#include "runtime/adapters/adapter_set.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace qianyi {
namespace {

constexpr size_t kMaxNameBytes = 64;

// ':' parts it from the model's name, and it stands in addresses and labels.
bool IsName(std::string_view name) {
  return !name.empty() && name.size() <= kMaxNameBytes && name[0] != '.' &&
         std::all_of(name.begin(), name.end(), [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                  c == '-' || c == '_' || c == '.';
         });
}

absl::Status Named(const std::string& name, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat("adapter ", name, ": ", status.message()));
}

}  // namespace

absl::StatusOr<uint64_t> AdapterBytes(const std::vector<NamedAdapter>& adapters,
                                      const ModelFile& model, DType kv_dtype) {
  const uint64_t page_bytes = KvCache::PageBytes(model.spec.kv, kv_dtype);
  uint64_t total = 0;
  for (const NamedAdapter& adapter : adapters) {
    absl::StatusOr<uint64_t> bytes = Adapter::Bytes(adapter.folder, model, page_bytes);
    if (!bytes.ok()) return Named(adapter.name, bytes.status());
    // Whole pages: the budget is divided into them.
    total += (*bytes + page_bytes - 1) / page_bytes * page_bytes;
  }
  return total;
}

absl::Status AdapterSet::LoadAll(const std::vector<NamedAdapter>& adapters) {
  for (const NamedAdapter& adapter : adapters) {
    const auto loaded = Load(adapter.name, adapter.folder);
    if (!loaded.ok()) return Named(adapter.name, loaded.status());
  }
  return absl::OkStatus();
}

AdapterSet::AdapterSet(uint64_t limit_bytes, const ModelFile& model, KvCache& kv,
                       const Backend& backend)
    : model_(model),
      kv_(kv),
      backend_(backend),
      pool_(std::make_shared<AdapterPool>(limit_bytes, kv,
                                          KvCache::PageBytes(model.spec.kv, kv.dtype()))) {}

absl::StatusOr<std::shared_ptr<const Adapter>> AdapterSet::Load(const std::string& name,
                                                                const std::string& folder,
                                                                const AdapterFiles& files) {
  if (!IsName(name)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "adapter name '", name.substr(0, 2 * kMaxNameBytes), "': it must be 1..", kMaxNameBytes,
        " of letters, digits, '-', '_' and '.', and not begin with '.'"));
  }
  {
    std::lock_guard lock(mutex_);
    if (adapters_.contains(name) || !loading_.insert(name).second) {
      return absl::AlreadyExistsError(absl::StrCat(
          "an adapter '", name, "' is loaded already; unload it, or take another name"));
    }
  }
  absl::StatusOr<std::shared_ptr<const Adapter>> adapter =
      Adapter::Load(name, folder, model_, kv_, pool_, backend_, files);
  std::lock_guard lock(mutex_);
  loading_.erase(name);
  if (adapter.ok()) adapters_[name] = *adapter;
  return adapter;
}

absl::Status AdapterSet::NoSuch(std::string_view name) const {
  std::string known;
  for (const auto& [key, adapter] : adapters_)
    absl::StrAppend(&known, known.empty() ? "" : ", ", key);
  return absl::NotFoundError(absl::StrCat("no adapter '", std::string(name.substr(0, 100)),
                                          "' is loaded; there ",
                                          known.empty() ? "is none" : "is: ", known));
}

absl::Status AdapterSet::Unload(std::string_view name) {
  std::shared_ptr<const Adapter> last;  // destroyed without the lock
  std::lock_guard lock(mutex_);
  const auto found = adapters_.find(name);
  if (found == adapters_.end()) return NoSuch(name);
  last = std::move(found->second);
  adapters_.erase(found);
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<const Adapter>> AdapterSet::Find(std::string_view name) const {
  std::lock_guard lock(mutex_);
  const auto found = adapters_.find(name);
  if (found == adapters_.end()) return NoSuch(name);
  return found->second;
}

std::vector<std::shared_ptr<const Adapter>> AdapterSet::List() const {
  std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<const Adapter>> list;
  for (const auto& [name, adapter] : adapters_) list.push_back(adapter);
  return list;
}

}  // namespace qianyi
