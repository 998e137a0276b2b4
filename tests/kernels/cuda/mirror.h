// Runs a kernel's case on a device with memory of its own: arrays go there as they lie, sentinels,
// gaps and misalignment included, and come back.
#pragma once

#include <cstdint>
#include <cstring>
#include <map>
#include <vector>

#include "kernels/backend.h"

namespace qianyi::testing {

// What a device is compared with: the plain kernels of the processor.
inline const Backend& Reference() { return *CpuVariants().items[0]; }

class Mirror {
 public:
  explicit Mirror(const Backend& backend) : backend_(backend), stream_(backend.create_stream(1)) {}
  ~Mirror() {
    for (auto& [host, copy] : copies_) {
      backend_.free(copy.memory, copy.bytes + kLead);
      backend_.free_host(copy.staging, copy.bytes);
    }
    backend_.destroy_stream(stream_);
  }
  Mirror(const Mirror&) = delete;
  Mirror& operator=(const Mirror&) = delete;

  Stream stream() const { return stream_; }

  // The device's copy of `count` elements; the same one for the same address. InOut comes back.
  template <typename T>
  T* In(T* data, int64_t count) {
    return reinterpret_cast<T*>(Find(data, count * sizeof(T)).at);
  }
  template <typename T>
  T* InOut(T* data, int64_t count) {
    Copy& copy = Find(data, count * sizeof(T));
    copy.back = true;
    return reinterpret_cast<T*>(copy.at);
  }
  Tensor In(Tensor tensor) { return Mapped(tensor, false); }
  Tensor InOut(Tensor tensor) { return Mapped(tensor, true); }
  QuantizedRows InOut(QuantizedRows rows) {
    rows.values = InOut(rows.values, rows.rows * rows.padded_cols());
    rows.scales = InOut(rows.scales, rows.rows * rows.slices());
    rows.sums = InOut(rows.sums, rows.rows * rows.padded_cols() / 32);
    return rows;
  }
  PackedRows In(PackedRows rows) {
    rows.data = In(rows.data, PackedBytes(rows.format, rows.rows, rows.cols));
    return rows;
  }

  // Waits for the kernels and brings back what they wrote.
  void Finish() {
    for (auto& [host, copy] : copies_) {
      if (copy.back) backend_.download(copy.staging, copy.at, copy.bytes, stream_);
    }
    backend_.synchronize(stream_);
    for (auto& [host, copy] : copies_) {
      if (copy.back) std::memcpy(const_cast<void*>(host), copy.staging, copy.bytes);
    }
  }

 private:
  static constexpr size_t kLead = 64;  // room to keep an address's place within 64 bytes
  struct Copy {
    std::byte* memory = nullptr;
    std::byte* at = nullptr;
    void* staging = nullptr;
    size_t bytes = 0;
    bool back = false;
  };

  Copy& Find(const void* host, size_t bytes) {
    const auto [it, inserted] = copies_.try_emplace(host);
    Copy& copy = it->second;
    if (!inserted || bytes == 0) return copy;
    copy.bytes = bytes;
    copy.memory = static_cast<std::byte*>(backend_.alloc(bytes + kLead));
    copy.at = copy.memory + reinterpret_cast<uintptr_t>(host) % kLead;
    copy.staging = backend_.alloc_host(bytes);
    std::memcpy(copy.staging, host, bytes);
    backend_.upload(copy.at, copy.staging, bytes, stream_);
    return copy;
  }
  // With the sentinels before the first row and behind the last one.
  Tensor Mapped(Tensor tensor, bool back) {
    if (tensor.data == nullptr || tensor.rows == 0) return tensor;
    Copy& copy = Find(tensor.data, ((tensor.rows - 1) * tensor.stride + tensor.cols) * 4);
    copy.back = copy.back || back;
    tensor.data = copy.at;
    return tensor;
  }

  const Backend& backend_;
  Stream stream_;
  std::map<const void*, Copy> copies_;
};

// The emulated device, and a real one where there is one; QIANYI_NEEDS_CUDA in the environment asks
// for one, and the tests end without it.
std::vector<const Backend*> Devices();

}  // namespace qianyi::testing
