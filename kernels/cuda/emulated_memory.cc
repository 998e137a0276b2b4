// Memory of the emulated device: one file in memory, mapped twice. The addresses that are handed
// out lie in a mapping that nobody may touch; kernels are sent to the other one.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>

#include "kernels/cuda/emulation.h"

namespace qianyi::cuda::emulation {
namespace {

constexpr size_t kAlignment = size_t{2} << 20;
constexpr size_t kSpaceBytes = size_t{64} << 30;

std::atomic<bool> strict_memory{false};

class DeviceMemory {
 public:
  DeviceMemory() {
    file_ = memfd_create("device memory", MFD_CLOEXEC);
    void* handed = mmap(nullptr, kSpaceBytes + kAlignment, PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    void* real = MAP_FAILED;
    if (file_ >= 0 && ftruncate(file_, kSpaceBytes) == 0) {
      real =
          mmap(nullptr, kSpaceBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file_, 0);
    }
    if (handed == MAP_FAILED || real == MAP_FAILED) {
      std::fputs("CUDA emulation: the system grants no address space\n", stderr);
      std::abort();
    }
    begin_ = (reinterpret_cast<uintptr_t>(handed) + kAlignment - 1) / kAlignment * kAlignment;
    real_ = static_cast<std::byte*>(real);
    free_[0] = kSpaceBytes;
  }

  void* Allocate(size_t bytes, bool mapped) {
    if (bytes == 0 || bytes > kSpaceBytes) return nullptr;
    const size_t size = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    const std::lock_guard lock(mutex_);
    for (auto hole = free_.begin(); hole != free_.end(); ++hole) {
      if (hole->second < size) continue;
      const size_t offset = hole->first;
      if (hole->second > size) free_[offset + size] = hole->second - size;
      free_.erase(offset);
      taken_[offset] = {bytes, mapped};
      totals_[mapped] += bytes;
      return reinterpret_cast<void*>(begin_ + offset);
    }
    return nullptr;
  }

  void Free(void* data, size_t bytes) {
    if (data == nullptr) return;
    const size_t offset = reinterpret_cast<uintptr_t>(data) - begin_;
    const size_t size = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    const std::lock_guard lock(mutex_);
    const auto it = taken_.find(offset);
    if (it == taken_.end() || it->second.bytes != bytes) {
      Fault("memory is freed that was not allocated so");
      return;
    }
    totals_[it->second.mapped] -= bytes;
    taken_.erase(it);
    fallocate(file_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, size);
    auto at = free_.emplace(offset, size).first;
    if (const auto next = std::next(at);
        next != free_.end() && at->first + at->second == next->first) {
      at->second += next->second;
      free_.erase(next);
    }
    if (at == free_.begin()) return;
    const auto before = std::prev(at);
    if (before->first + before->second != at->first) return;
    before->second += at->second;
    free_.erase(at);
  }

  void* HostAddress(const void* data, size_t bytes) {
    const uintptr_t address = reinterpret_cast<uintptr_t>(data);
    if (address < begin_ || address >= begin_ + kSpaceBytes) {
      if (!strict_memory || bytes == 0) return const_cast<void*>(data);
      Fault("a kernel is given memory of the host");
      return nullptr;
    }
    const size_t offset = address - begin_;
    const std::lock_guard lock(mutex_);
    auto it = taken_.upper_bound(offset);
    if (it == taken_.begin() ||
        offset + bytes > std::prev(it)->first + std::prev(it)->second.bytes) {
      Fault("a kernel is given " + std::to_string(bytes) +
            " bytes that reach out of an allocation");
      return nullptr;
    }
    return real_ + offset;
  }

  uint64_t total(bool mapped) {
    const std::lock_guard lock(mutex_);
    return totals_[mapped];
  }

 private:
  struct Taken {
    size_t bytes = 0;
    bool mapped = false;  // memory of the host
  };

  int file_ = -1;
  uintptr_t begin_ = 0;
  std::byte* real_ = nullptr;
  std::mutex mutex_;
  std::map<size_t, size_t> free_;  // offset -> bytes
  std::map<size_t, Taken> taken_;  // by offset
  uint64_t totals_[2] = {0, 0};    // of the device, and mapped
};

DeviceMemory& Memory() {
  static DeviceMemory* const memory = new DeviceMemory;  // never unmapped: streams may outlive main
  return *memory;
}

}  // namespace

void* Allocate(size_t bytes) { return Memory().Allocate(bytes, /*mapped=*/false); }
void* AllocateMapped(size_t bytes) { return Memory().Allocate(bytes, /*mapped=*/true); }
void Free(void* data, size_t bytes) { Memory().Free(data, bytes); }
uint64_t AllocatedBytes() { return Memory().total(/*mapped=*/false); }
uint64_t MappedBytes() { return Memory().total(/*mapped=*/true); }
void* HostAddress(const void* data, size_t bytes) { return Memory().HostAddress(data, bytes); }
void SetStrictMemory(bool strict) { strict_memory = strict; }

}  // namespace qianyi::cuda::emulation
