// A small addition to a model that a request may ask for by name: low-rank matrices (LoRA) or a
// prefix of keys and values (P-tuning v2). The model's own weights stay as they are.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "runtime/kv_cache.h"
#include "runtime/storage/model_file.h"

namespace qianyi {

class PrefixFile;

// Adapters of one model that are in memory, those included that are unloaded and still in use.
inline constexpr int64_t kMaxAdapters = 64;

// The memory of one model's adapters: bytes, and the shared pages of its cache. Thread-safe.
class AdapterPool {
 public:
  // `kv` has pages for `limit_bytes`.
  AdapterPool(uint64_t limit_bytes, const KvCache& kv, uint64_t page_bytes);

  // ResourceExhausted, with what is taken and what to do, when there is no room.
  absl::Status Take(uint64_t bytes, int64_t pages, std::vector<int32_t>* taken);
  void GiveBack(uint64_t bytes, const std::vector<int32_t>& pages);

  uint64_t page_bytes() const { return page_bytes_; }
  uint64_t limit_bytes() const { return limit_bytes_; }
  uint64_t used_bytes() const;
  int64_t adapters() const;

 private:
  const uint64_t limit_bytes_;
  const uint64_t page_bytes_;  // over all layers
  mutable std::mutex mutex_;
  uint64_t used_bytes_ = 0;
  int64_t adapters_ = 0;
  std::vector<int32_t> free_pages_;
};

// Which files of an adapter's folder to read; empty: those found by the usual names.
struct AdapterFiles {
  std::string lora = {};
  std::string prefix = {};
};

// Immutable once made. Requests that run with it share it, and its memory is given back with the
// last of them. Must not outlive the KvCache, unless it has no prefix.
class Adapter {
 public:
  // What Load will take from the pool. Reads headers only; errors as of LoraFile and PrefixFile.
  static absl::StatusOr<uint64_t> Bytes(const std::string& folder, const ModelFile& model,
                                        uint64_t page_bytes, const AdapterFiles& files = {});
  // Reads all, on the caller's thread: seconds for a large prefix with a projection.
  static absl::StatusOr<std::shared_ptr<const Adapter>> Load(
      const std::string& name, const std::string& folder, const ModelFile& model, KvCache& kv,
      std::shared_ptr<AdapterPool> pool, const Backend& backend, const AdapterFiles& files = {});
  ~Adapter();
  Adapter(const Adapter&) = delete;
  Adapter& operator=(const Adapter&) = delete;

  const std::string& name() const { return name_; }
  bool has_lora() const { return !lora_.empty(); }
  uint64_t bytes() const { return bytes_; }
  int64_t created_seconds() const { return created_seconds_; }
  uint64_t serial() const { return serial_; }  // of no other in this process, whatever its name
  // What it adds to a matrix of the model; mostly nothing.
  std::span<const LoraWeights> lora(int tensor) const { return lora_[tensor]; }
  const KvPrefix& prefix() const { return prefix_; }

 private:
  Adapter(std::string name, std::shared_ptr<AdapterPool> pool, const Backend& backend);
  absl::Status LoadLora(const std::string& folder, const ModelFile& model,
                        const AdapterFiles& files);
  absl::Status WriteToDevice(const PrefixFile& file, float largest,
                             const std::vector<int64_t>& slots, KvCache& kv) const;
  absl::Status LoadPrefix(const std::string& folder, const ModelFile& model, KvCache& kv,
                          const AdapterFiles& files);

  const std::string name_;
  const std::shared_ptr<AdapterPool> pool_;
  const Backend& backend_;
  const int64_t created_seconds_;
  const uint64_t serial_;
  uint64_t bytes_ = 0;
  std::vector<std::vector<LoraWeights>> lora_;  // by tensor; empty without LoRA
  void* memory_ = nullptr;
  uint64_t memory_bytes_ = 0;
  bool taken_ = false;
  KvPrefix prefix_;
};

}  // namespace qianyi
