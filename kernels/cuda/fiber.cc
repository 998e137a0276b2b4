#include "kernels/cuda/fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "kernels/sanitizers.h"
#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(QIANYI_ADDRESS_SANITIZER)
#include <pthread.h>
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(QIANYI_THREAD_SANITIZER)
#include <sanitizer/tsan_interface.h>
#endif

#if defined(__x86_64__)
// Saves what a call must keep (System V ABI), exchanges the stack pointers, and takes the other
// stack's registers back.
extern "C" void qianyi_switch_stack(void** save, void* load);
asm(R"(
.text
.globl qianyi_switch_stack
.type qianyi_switch_stack, @function
qianyi_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size qianyi_switch_stack, .-qianyi_switch_stack
)");
#endif

namespace qianyi::cuda::emulation {
namespace {

constexpr size_t kGuardBytes = 4096;
#if defined(QIANYI_ADDRESS_SANITIZER) || defined(QIANYI_THREAD_SANITIZER)
constexpr size_t kStackBytes = 256 << 10;
#else
constexpr size_t kStackBytes = 64 << 10;
#endif

void SwitchStack(Context& from, Context& to) {
#if defined(__x86_64__)
  qianyi_switch_stack(&from.stack_pointer, to.stack_pointer);
#else
  swapcontext(static_cast<ucontext_t*>(from.stack_pointer),
              static_cast<ucontext_t*>(to.stack_pointer));
#endif
}

}  // namespace

Fiber::Fiber() {
  mapping_ = mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping_ == MAP_FAILED || mprotect(mapping_, kGuardBytes, PROT_NONE) != 0) {
    std::fputs("CUDA emulation: no memory for the stack of a thread\n", stderr);
    std::abort();
  }
  context_.stack = static_cast<std::byte*>(mapping_) + kGuardBytes;
  context_.stack_bytes = kStackBytes;
#if defined(QIANYI_THREAD_SANITIZER)
  context_.sanitizer_fiber = __tsan_create_fiber(0);
#endif
#if !defined(__x86_64__)
  context_.stack_pointer = new ucontext_t;
#endif
}

Fiber::~Fiber() {
#if defined(QIANYI_THREAD_SANITIZER)
  __tsan_destroy_fiber(context_.sanitizer_fiber);
#endif
#if !defined(__x86_64__)
  delete static_cast<ucontext_t*>(context_.stack_pointer);
#endif
#if defined(QIANYI_ADDRESS_SANITIZER)
  // Frames that were left and never returned from; the addresses may be weights next.
  ASAN_UNPOISON_MEMORY_REGION(context_.stack, kStackBytes);
#endif
  munmap(mapping_, kGuardBytes + kStackBytes);
}

void Fiber::Start(Entry entry) {
#if defined(__x86_64__)
  // As if `entry` had been about to be returned to: six registers, its address, and a slot
  // where it would find its own return address, which keeps the stack aligned.
  void** top = reinterpret_cast<void**>(static_cast<std::byte*>(context_.stack) + kStackBytes);
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  context_.stack_pointer = top;
#else
  ucontext_t* target = static_cast<ucontext_t*>(context_.stack_pointer);
  getcontext(target);
  target->uc_stack.ss_sp = context_.stack;
  target->uc_stack.ss_size = kStackBytes;
  target->uc_link = nullptr;
  makecontext(target, entry, 0);
#endif
}

void Switch(Context& from, Context& to) {
#if defined(QIANYI_ADDRESS_SANITIZER)
  __sanitizer_start_switch_fiber(&from.fake_stack, to.stack, to.stack_bytes);
#endif
#if defined(QIANYI_THREAD_SANITIZER)
  __tsan_switch_to_fiber(to.sanitizer_fiber, 0);
#endif
  SwitchStack(from, to);
#if defined(QIANYI_ADDRESS_SANITIZER)
  __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
#endif
}

void Leave(Context& from, Context& to) {
#if defined(QIANYI_ADDRESS_SANITIZER)
  __sanitizer_start_switch_fiber(nullptr, to.stack, to.stack_bytes);
#endif
#if defined(QIANYI_THREAD_SANITIZER)
  __tsan_switch_to_fiber(to.sanitizer_fiber, 0);
#endif
  SwitchStack(from, to);
  std::abort();  // a stack that left was gone on with
}

void Entered() {
#if defined(QIANYI_ADDRESS_SANITIZER)
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
}

void AdoptThread(Context& self) {
#if defined(QIANYI_ADDRESS_SANITIZER)
  pthread_attr_t attributes;
  pthread_getattr_np(pthread_self(), &attributes);
  pthread_attr_getstack(&attributes, &self.stack, &self.stack_bytes);
  pthread_attr_destroy(&attributes);
#endif
#if defined(QIANYI_THREAD_SANITIZER)
  self.sanitizer_fiber = __tsan_get_current_fiber();
#endif
#if !defined(__x86_64__)
  static thread_local ucontext_t context;
  self.stack_pointer = &context;
#endif
  (void)self;
}

}  // namespace qianyi::cuda::emulation
