#include "tests/runtime/verse/allocations.h"

#include <cstdlib>
#include <new>

#include "kernels/sanitizers.h"

namespace {
thread_local int64_t allocations = 0;
}

int64_t qianyi::testing::Allocations() { return allocations; }

// These replace the library's own in the whole test program. A sanitizer has its own and must
// keep them all: under one, nothing is counted.
#if !defined(QIANYI_ADDRESS_SANITIZER) && !defined(QIANYI_THREAD_SANITIZER)
void* operator new(size_t bytes) {
  ++allocations;
  if (void* memory = std::malloc(bytes == 0 ? 1 : bytes)) return memory;
  std::abort();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
#endif
