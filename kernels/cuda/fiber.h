// Stacks that take turns on one thread of the system: how the emulation runs the threads of
// a block. Switches are announced to the address and thread sanitizers.
#pragma once

#include <cstddef>

namespace qianyi::cuda::emulation {

// The place where a stack stands while another runs.
struct Context {
  void* stack_pointer = nullptr;  // or a ucontext_t where there is no switch of our own
  void* sanitizer_fiber = nullptr;
  void* fake_stack = nullptr;
  void* stack = nullptr;  // lowest address; null: the stack of the system's thread
  size_t stack_bytes = 0;
};

using Entry = void (*)();

// A stack with a guard page below it. It stays mapped until destruction and may be started again
// once its entry is through.
class Fiber {
 public:
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Makes the next switch to it call `entry`, which must end with Leave() and never return.
  void Start(Entry entry);
  Context& context() { return context_; }

 private:
  Context context_;
  void* mapping_ = nullptr;
};

// Parks the running stack in `from` and goes on with `to`. To be called, like all below, by the
// thread that ran `to` before.
void Switch(Context& from, Context& to);
// The same for a stack that will not be gone on with.
void Leave(Context& from, Context& to);
// The first thing an entry does.
void Entered();
// Prepares the context of the system's thread; call once before the first switch from it.
void AdoptThread(Context& self);

}  // namespace qianyi::cuda::emulation
