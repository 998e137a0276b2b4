#include <sys/mman.h>

#include "kernels/cpu/drivers.h"

namespace qianyi::cpu {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

size_t Rounded(size_t bytes) { return (bytes + kHugePage - 1) / kHugePage * kHugePage; }

}  // namespace

void* Alloc(size_t bytes) {
  if (bytes == 0 || bytes > SIZE_MAX - 2 * kHugePage) return nullptr;
  const size_t size = Rounded(bytes);
  // One huge page more than needed, to cut an aligned piece out of it.
  void* raw =
      mmap(nullptr, size + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (raw == MAP_FAILED) return nullptr;
  std::byte* begin = static_cast<std::byte*>(raw);
  const size_t before = (kHugePage - reinterpret_cast<uintptr_t>(begin) % kHugePage) % kHugePage;
  if (before > 0) munmap(begin, before);
  munmap(begin + before + size, kHugePage - before);
  std::byte* data = begin + before;
  if (bytes >= kHugePage) madvise(data, size, MADV_HUGEPAGE);  // a hint: may be refused
  return data;
}

void Free(void* data, size_t bytes) {
  if (data != nullptr) munmap(data, Rounded(bytes));
}

}  // namespace qianyi::cpu
