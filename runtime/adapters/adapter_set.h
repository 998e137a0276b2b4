// The adapters of one model by name, loaded and unloaded while it runs.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/adapters/adapter.h"

namespace qianyi {

// An adapter still to be loaded.
struct NamedAdapter {
  std::string name;
  std::string folder;
};

// What these take of `model` in memory, from their headers. Errors name the adapter.
absl::StatusOr<uint64_t> AdapterBytes(const std::vector<NamedAdapter>& adapters,
                                      const ModelFile& model, DType kv_dtype);

// Thread-safe; the engine's thread never waits for it. Outlived by the model's cache.
class AdapterSet {
 public:
  // `model` and `kv` outlive it.
  AdapterSet(uint64_t limit_bytes, const ModelFile& model, KvCache& kv, const Backend& backend);

  // Takes as long as reading does, on the caller's thread; requests may name it afterwards.
  // AlreadyExists, InvalidArgument (the name, or what is wrong in which file), NotFound,
  // ResourceExhausted.
  absl::StatusOr<std::shared_ptr<const Adapter>> Load(const std::string& name,
                                                      const std::string& folder,
                                                      const AdapterFiles& files = {});
  // All of them; the error names the adapter.
  absl::Status LoadAll(const std::vector<NamedAdapter>& adapters);
  // No new requests; its memory is given back when the last one that runs with it has ended.
  // NotFound lists the names there are.
  absl::Status Unload(std::string_view name);
  absl::StatusOr<std::shared_ptr<const Adapter>> Find(std::string_view name) const;

  std::vector<std::shared_ptr<const Adapter>> List() const;  // by name
  uint64_t used_bytes() const { return pool_->used_bytes(); }
  uint64_t limit_bytes() const { return pool_->limit_bytes(); }

 private:
  absl::Status NoSuch(std::string_view name) const;

  const ModelFile& model_;
  KvCache& kv_;
  const Backend& backend_;
  const std::shared_ptr<AdapterPool> pool_;
  mutable std::mutex mutex_;
  std::map<std::string, std::shared_ptr<const Adapter>, std::less<>> adapters_;
  std::set<std::string> loading_;
};

}  // namespace qianyi
