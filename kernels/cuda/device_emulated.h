// device.h in plain C++.
#pragma once

#include <cstring>
#include <string>
#include <type_traits>

#include "kernels/cuda/device.h"
#include "kernels/cuda/emulation.h"
#include "kernels/cuda/library_room.h"
#include "kernels/cuda/math_emulated.h"

#define QIANYI_FLAVOUR inline emulated
#define QIANYI_DEVICE
#define QIANYI_SHARED(type, name, count) \
  static const char name##_site = 0;     \
  const Shared<type> name(               \
      static_cast<type*>(emulation::SharedBytes(&name##_site, sizeof(type) * (count))), count)

namespace qianyi::cuda {
inline namespace emulated {

struct DeviceStream {
  emulation::WorkQueue queue;
  void* workspace = nullptr;
  LibraryRoom library;
};
struct DeviceEvent {
  DeviceStream* stream = nullptr;  // of the last record
  uint64_t count = 0;
};

// Checked, and for shared memory noted. What faults reads as zero and is not written.
template <typename T, bool kShared>
class Array {
 public:
  Array(T* data, int64_t count) : data_(data), count_(data == nullptr ? 0 : count) {}
  T Load(int64_t i) const { return LoadAs<std::remove_const_t<T>>(i); }
  void Store(int64_t i, T value) const { StoreAs(i, value); }
  template <typename U>
  U LoadAs(int64_t i) const {
    U value = {};
    if (Allowed<U>(i, emulation::Access::kRead)) {
      std::memcpy(static_cast<void*>(&value), data_ + i, sizeof(U));
    }
    return value;
  }
  template <typename U>
  void StoreAs(int64_t i, U value) const {
    if (Allowed<U>(i, emulation::Access::kWrite)) std::memcpy(data_ + i, &value, sizeof(U));
  }
  // U at element i.
  template <typename U>
  bool Allowed(int64_t i, emulation::Access access) const {
    constexpr size_t bytes = sizeof(U);
    if (i < 0 || i * sizeof(T) + bytes > count_ * sizeof(T)) {
      emulation::Fault("element " + std::to_string(i) + " (" + std::to_string(bytes) +
                       " bytes) of an array of " + std::to_string(count_) +
                       (kShared ? " in shared memory" : " in global memory"));
      return false;
    }
    if (reinterpret_cast<uintptr_t>(data_ + i) % alignof(U) != 0) {
      emulation::Fault(std::to_string(bytes) + " bytes at once off their alignment");
      return false;
    }
    return !kShared || emulation::NoteShared(data_ + i, bytes, access);
  }
  T* at(int64_t i) const { return data_ + i; }

 protected:
  T* data_;
  int64_t count_;
};

template <typename T>
class Global : public Array<T, false> {
 public:
  Global(T* data, int64_t count)
      : Array<T, false>(static_cast<T*>(emulation::HostAddress(data, count * sizeof(T))), count) {}
  template <typename U>
  U LoadOnce(int64_t i) const {
    return this->template LoadAs<U>(i);
  }
};

template <typename T>
using Shared = Array<T, true>;

inline int ThreadIndex() { return emulation::ThreadIndex(); }
inline int Lane() { return emulation::ThreadIndex() % emulation::kWarpThreads; }
inline int Warp() { return emulation::ThreadIndex() / emulation::kWarpThreads; }
inline int64_t BlockIndex(int axis) { return emulation::BlockIndex(axis); }
inline void Barrier() { emulation::Barrier(); }
inline void WarpBarrier() {
  void** lanes;
  if (emulation::ArriveAtWarp(nullptr, &lanes)) emulation::CompleteWarp();
}
template <typename T>
T ShuffleXor(T value, int mask) {
  static_assert(sizeof(T) <= sizeof(void*));
  void* mine = nullptr;
  std::memcpy(&mine, &value, sizeof(T));
  const int other = Lane() ^ mask;
  void** lanes;
  if (emulation::ArriveAtWarp(mine, &lanes)) emulation::CompleteWarp();
  std::memcpy(&value, &lanes[other], sizeof(T));
  return value;
}
template <typename T, bool kShared>
T AtomicAdd(const Array<T, kShared>& array, int64_t i, T value) {
  if (!array.template Allowed<T>(i, emulation::Access::kAtomic)) return T{};
  const T old = *array.at(i);
  *array.at(i) = old + value;
  return old;
}

template <typename T>
void CopyAsync16(const Shared<T>& to, int64_t i, const Global<const T>& from, int64_t j) {
  if (from.template Allowed<Words4>(j, emulation::Access::kRead) &&
      to.template Allowed<Words4>(i, emulation::Access::kWrite)) {
    emulation::CopyLater(to.at(i), from.at(j), 16);
  }
}
inline void CommitCopies() { emulation::CommitCopies(); }
template <int kGroupsLeft>
void WaitForCopies() {
  emulation::WaitForCopies(kGroupsLeft);
}

template <typename Kernel>
void Launch(Stream stream, Grid grid, const Kernel& kernel) {
  static_cast<DeviceStream*>(stream.handle)->queue.Add([grid, kernel] {
    emulation::RunGrid({grid.x, grid.y, grid.z}, Kernel::kThreads, &kernel,
                       [](const void* context) { (*static_cast<const Kernel*>(context))(); });
  });
}

}  // namespace emulated
}  // namespace qianyi::cuda
