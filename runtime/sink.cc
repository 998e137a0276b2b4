#include "runtime/sink.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>

namespace qianyi {
namespace {

static_assert(sizeof(std::atomic<uint32_t>) == sizeof(uint32_t), "futexes are 32 bits");

void Futex(std::atomic<uint32_t>* word, int operation, uint32_t value) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(word), operation | FUTEX_PRIVATE_FLAG, value,
          nullptr, nullptr, 0);
}

}  // namespace

// Each side writes its own word before it reads the other's: one of them sees the other.
void Bell::Ring() {
  rings_.fetch_add(1);
  if (awaited_.load()) Futex(&rings_, FUTEX_WAKE, INT_MAX);
}

void Bell::Wait(uint32_t seen) {
  awaited_.store(true);
  while (rings_.load() == seen) Futex(&rings_, FUTEX_WAIT, seen);
  awaited_.store(false);
}

}  // namespace qianyi
