#include "runtime/adapters/adapter.h"

#include <chrono>
#include <cmath>
#include <filesystem>
#include <limits>
#include <numeric>
#include <utility>

#include "absl/strings/str_format.h"
#include "runtime/adapters/lora_file.h"
#include "runtime/adapters/prefix_file.h"
#include "runtime/memory_size.h"
#include "runtime/storage/file_util.h"

namespace qianyi {
namespace {

constexpr float kLargestHalf = 65504;
constexpr uint64_t kHugePageBytes = 2 << 20;

// What the backend's memory really takes.
uint64_t MemoryOf(int64_t floats) {
  const uint64_t bytes = floats * sizeof(float);
  const uint64_t grain = bytes >= kHugePageBytes ? kHugePageBytes : kPageBytes;
  return (bytes + grain - 1) / grain * grain;
}

bool IsLora(const std::string& folder, const AdapterFiles& files) {
  std::error_code ignored;
  return files.prefix.empty() &&
         std::filesystem::exists(JoinPath(folder, "adapter_config.json"), ignored);
}

int64_t NowSeconds() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::seconds>(now).count();
}

}  // namespace

AdapterPool::AdapterPool(uint64_t limit_bytes, const KvCache& kv, uint64_t page_bytes)
    : limit_bytes_(limit_bytes), page_bytes_(page_bytes), free_pages_(kv.shared_pages()) {
  std::iota(free_pages_.rbegin(), free_pages_.rend(), static_cast<int32_t>(kv.pages()));
}

absl::Status AdapterPool::Take(uint64_t bytes, int64_t pages, std::vector<int32_t>* taken) {
  std::lock_guard lock(mutex_);
  if (adapters_ >= kMaxAdapters) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("%d adapters are loaded, which is the limit; unload one", adapters_));
  }
  if (bytes > limit_bytes_ - used_bytes_ || pages > static_cast<int64_t>(free_pages_.size())) {
    return absl::ResourceExhaustedError(absl::StrFormat(
        "the adapter needs %s, but of the %s for adapters %s are taken; unload one, or raise "
        "--adapter-memory",
        FormatSize(bytes), FormatSize(limit_bytes_), FormatSize(used_bytes_)));
  }
  used_bytes_ += bytes;
  ++adapters_;
  taken->assign(free_pages_.end() - pages, free_pages_.end());
  free_pages_.resize(free_pages_.size() - pages);
  return absl::OkStatus();
}

void AdapterPool::GiveBack(uint64_t bytes, const std::vector<int32_t>& pages) {
  std::lock_guard lock(mutex_);
  used_bytes_ -= bytes;
  --adapters_;
  free_pages_.insert(free_pages_.end(), pages.begin(), pages.end());
}

uint64_t AdapterPool::used_bytes() const {
  std::lock_guard lock(mutex_);
  return used_bytes_;
}

int64_t AdapterPool::adapters() const {
  std::lock_guard lock(mutex_);
  return adapters_;
}

Adapter::Adapter(std::string name, std::shared_ptr<AdapterPool> pool, const Backend& backend)
    : name_(std::move(name)),
      pool_(std::move(pool)),
      backend_(backend),
      created_seconds_(NowSeconds()) {}

Adapter::~Adapter() {
  if (memory_ != nullptr) backend_.free(memory_, memory_bytes_);
  if (taken_) pool_->GiveBack(bytes_, prefix_.pages);
}

absl::StatusOr<uint64_t> Adapter::Bytes(const std::string& folder, const ModelFile& model,
                                        uint64_t page_bytes, const AdapterFiles& files) {
  if (IsLora(folder, files)) {
    absl::StatusOr<LoraFile> lora = LoraFile::Open(folder, model, files.lora);
    if (!lora.ok()) return lora.status();
    return MemoryOf(lora->floats());
  }
  absl::StatusOr<PrefixFile> prefix = PrefixFile::Open(folder, model.spec.kv, files.prefix);
  if (!prefix.ok()) return prefix.status();
  return KvCache::PagesFor(prefix->slots()) * page_bytes;
}

absl::StatusOr<std::shared_ptr<const Adapter>> Adapter::Load(
    const std::string& name, const std::string& folder, const ModelFile& model, KvCache& kv,
    std::shared_ptr<AdapterPool> pool, const Backend& backend, const AdapterFiles& files) {
  std::shared_ptr<Adapter> adapter(new Adapter(name, std::move(pool), backend));
  const absl::Status status = IsLora(folder, files) ? adapter->LoadLora(folder, model, files)
                                                    : adapter->LoadPrefix(folder, model, kv, files);
  if (!status.ok()) return status;
  return adapter;
}

absl::Status Adapter::LoadLora(const std::string& folder, const ModelFile& model,
                               const AdapterFiles& files) {
  absl::StatusOr<LoraFile> file = LoraFile::Open(folder, model, files.lora);
  if (!file.ok()) return file.status();
  bytes_ = MemoryOf(file->floats());
  if (absl::Status status = pool_->Take(bytes_, 0, &prefix_.pages); !status.ok()) return status;
  taken_ = true;
  memory_ = backend_.alloc(bytes_);
  memory_bytes_ = bytes_;
  if (memory_ == nullptr) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("no memory for the adapter (%s)", FormatSize(bytes_)));
  }
  lora_.resize(model.tensors.size());
  return file->Read(static_cast<float*>(memory_), &lora_);
}

absl::Status Adapter::LoadPrefix(const std::string& folder, const ModelFile& model, KvCache& kv,
                                 const AdapterFiles& files) {
  absl::StatusOr<PrefixFile> file = PrefixFile::Open(folder, model.spec.kv, files.prefix);
  if (!file.ok()) return file.status();
  const int64_t pages = KvCache::PagesFor(file->slots());
  bytes_ = pages * pool_->page_bytes();
  if (absl::Status status = pool_->Take(bytes_, pages, &prefix_.pages); !status.ok()) {
    return status;
  }
  taken_ = true;
  prefix_.slots = file->slots();
  std::vector<int64_t> slots(file->slots());
  for (int64_t i = 0; i < file->slots(); ++i) {
    slots[i] = int64_t{prefix_.pages[i / kPageTokens]} * kPageTokens + i % kPageTokens;
  }
  const float largest =
      kv.dtype() == DType::kF32 ? std::numeric_limits<float>::max() : kLargestHalf;
  const Stream stream = backend_.create_stream(1);
  if (stream.handle == nullptr) {
    return absl::ResourceExhaustedError("no memory to decode the prefix");
  }
  // Nobody reads these pages before the adapter is handed over.
  const absl::Status status =
      file->Decode(largest, backend_, stream, [&](int layer, Tensor k, Tensor v) {
        backend_.kv_write({.k = k, .v = v, .slots = slots.data(), .layer = kv.layer(layer)},
                          stream);
      });
  backend_.synchronize(stream);
  backend_.destroy_stream(stream);
  return status;
}

}  // namespace qianyi
