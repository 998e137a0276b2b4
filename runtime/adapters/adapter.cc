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

// Pinned memory and a stream for what is brought to a device once.
class DeviceCopy {
 public:
  explicit DeviceCopy(const Backend& backend)
      : backend_(backend), stream_(backend.create_stream(1)) {}
  ~DeviceCopy() {
    backend_.destroy_stream(stream_);
    if (staging_ != nullptr) backend_.free_host(staging_, bytes_);
  }
  DeviceCopy(const DeviceCopy&) = delete;
  DeviceCopy& operator=(const DeviceCopy&) = delete;

  Stream stream() const { return stream_; }
  float* Staging(size_t bytes) {  // once; null when there is no room
    bytes_ = bytes;
    return staging_ = static_cast<float*>(backend_.alloc_host(bytes));
  }
  // All of the staging memory, and waits for it.
  void Upload(void* to) const {
    backend_.upload(to, staging_, bytes_, stream_);
    backend_.synchronize(stream_);
  }

 private:
  const Backend& backend_;
  const Stream stream_;
  float* staging_ = nullptr;
  size_t bytes_ = 0;
};

uint64_t NextSerial() {
  static std::atomic<uint64_t> last{0};
  return ++last;
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
      created_seconds_(NowSeconds()),
      serial_(NextSerial()) {}

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
  if (backend_.host_memory) return file->Read(static_cast<float*>(memory_), &lora_);
  DeviceCopy copy(backend_);
  float* const staging = copy.Staging(bytes_);
  if (staging == nullptr) return absl::ResourceExhaustedError("no memory to bring the adapter in");
  if (absl::Status status = file->Read(staging, &lora_); !status.ok()) return status;
  for (std::vector<LoraWeights>& parts : lora_) {
    for (LoraWeights& part : parts) {
      part.a = static_cast<float*>(memory_) + (part.a - staging);
      part.b = static_cast<float*>(memory_) + (part.b - staging);
    }
  }
  copy.Upload(memory_);
  return absl::OkStatus();
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
      kv.dtype() == DType::kF16 ? kLargestHalf : std::numeric_limits<float>::max();
  if (!backend_.host_memory) return WriteToDevice(*file, largest, slots, kv);
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

// Decodes on the CPU; a layer at a time goes over.
absl::Status Adapter::WriteToDevice(const PrefixFile& file, float largest,
                                    const std::vector<int64_t>& slots, KvCache& kv) const {
  const KvLayer shape = kv.layer(0);
  const int64_t cols = shape.kv_heads * (shape.key_dim + shape.value_dim);
  const int64_t count = static_cast<int64_t>(slots.size());
  const size_t row_bytes = count * cols * sizeof(float);
  const size_t bytes = row_bytes + count * sizeof(int64_t);
  DeviceCopy copy(backend_);
  float* const staging = copy.Staging(bytes);
  std::byte* const memory = static_cast<std::byte*>(backend_.alloc(bytes));
  const Stream host = Cpu().create_stream(1);
  absl::Status status = absl::ResourceExhaustedError("no memory to decode the prefix");
  if (staging != nullptr && memory != nullptr && host.handle != nullptr) {
    std::memcpy(reinterpret_cast<std::byte*>(staging) + row_bytes, slots.data(),
                count * sizeof(int64_t));
    const Tensor both = F32(reinterpret_cast<float*>(memory), count, cols);
    const int64_t key_cols = shape.kv_heads * shape.key_dim;
    status = file.Decode(largest, Cpu(), host, [&](int layer, Tensor k, Tensor) {
      std::memcpy(staging, k.data, row_bytes);  // the values stand beside the keys
      copy.Upload(memory);
      backend_.kv_write({.k = both.Columns(0, key_cols),
                         .v = both.Columns(key_cols, cols - key_cols),
                         .slots = reinterpret_cast<const int64_t*>(memory + row_bytes),
                         .layer = kv.layer(layer)},
                        copy.stream());
      backend_.synchronize(copy.stream());
    });
  }
  if (memory != nullptr) backend_.free(memory, bytes);
  if (host.handle != nullptr) Cpu().destroy_stream(host);
  return status;
}

}  // namespace qianyi
