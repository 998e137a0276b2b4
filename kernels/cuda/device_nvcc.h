// device.h for nvcc.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "kernels/cuda/device.h"
#include "kernels/cuda/library_room.h"

#define QIANYI_FLAVOUR inline hardware
#define QIANYI_DEVICE __device__
#define QIANYI_SHARED(type, name, count)             \
  __shared__ alignas(16) type name##_storage[count]; \
  const Shared<type> name(name##_storage)

namespace qianyi::cuda {
inline namespace hardware {

struct DeviceStream {
  cudaStream_t stream = nullptr;
  void* workspace = nullptr;
  LibraryRoom library;
};
struct DeviceEvent {
  cudaEvent_t event = nullptr;
};

template <typename T>
class Array {
 public:
  QIANYI_DEVICE explicit Array(T* data) : data_(data) {}
  QIANYI_DEVICE T Load(int64_t i) const { return data_[i]; }
  QIANYI_DEVICE void Store(int64_t i, T value) const { data_[i] = value; }
  template <typename U>
  QIANYI_DEVICE U LoadAs(int64_t i) const {
    return *reinterpret_cast<const U*>(data_ + i);
  }
  template <typename U>
  QIANYI_DEVICE void StoreAs(int64_t i, U value) const {
    *reinterpret_cast<U*>(data_ + i) = value;
  }
  QIANYI_DEVICE T* at(int64_t i) const { return data_ + i; }

 protected:
  T* data_;
};

template <typename T>
class Global : public Array<T> {
 public:
  QIANYI_DEVICE Global(T* data, int64_t) : Array<T>(data) {}
  template <typename U>
  QIANYI_DEVICE U LoadOnce(int64_t i) const {
    return __ldcs(reinterpret_cast<const U*>(this->data_ + i));
  }
};

template <typename T>
class Shared : public Array<T> {
 public:
  QIANYI_DEVICE explicit Shared(T* data) : Array<T>(data) {}
};

QIANYI_DEVICE inline int ThreadIndex() { return static_cast<int>(threadIdx.x); }
QIANYI_DEVICE inline int Lane() { return static_cast<int>(threadIdx.x % 32); }
QIANYI_DEVICE inline int Warp() { return static_cast<int>(threadIdx.x / 32); }
QIANYI_DEVICE inline int64_t BlockIndex(int axis) {
  return axis == 0 ? blockIdx.x : axis == 1 ? blockIdx.y : blockIdx.z;
}
QIANYI_DEVICE inline void Barrier() { __syncthreads(); }
QIANYI_DEVICE inline void WarpBarrier() { __syncwarp(); }
template <typename T>
QIANYI_DEVICE T ShuffleXor(T value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}
template <typename T>
QIANYI_DEVICE T AtomicAdd(const Array<T>& array, int64_t i, T value) {
  return atomicAdd(array.at(i), value);
}

template <typename T>
QIANYI_DEVICE void CopyAsync16(const Shared<T>& to, int64_t i, const Global<const T>& from,
                               int64_t j) {
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(to.at(i)));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(from.at(j))
               : "memory");
}
QIANYI_DEVICE inline void CommitCopies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kGroupsLeft>
QIANYI_DEVICE void WaitForCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroupsLeft) : "memory");
}

QIANYI_DEVICE inline void MmaInt8(int32_t (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
QIANYI_DEVICE inline void MmaTf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

QIANYI_DEVICE inline float Fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
QIANYI_DEVICE inline float Exp(float x) { return expf(x); }
QIANYI_DEVICE inline float Erf(float x) { return erff(x); }
QIANYI_DEVICE inline float Sqrt(float x) { return __fsqrt_rn(x); }
QIANYI_DEVICE inline float FloatOfHalf(uint16_t bits) {
  return __half2float(__ushort_as_half(bits));
}
QIANYI_DEVICE inline uint16_t HalfOfFloat(float value) {
  return __half_as_ushort(__float2half_rn(value));
}
QIANYI_DEVICE inline uint32_t BitsOf(float value) { return __float_as_uint(value); }
QIANYI_DEVICE inline float FloatOf(uint32_t bits) { return __uint_as_float(bits); }

template <typename Kernel>
__global__ void __launch_bounds__(Kernel::kThreads)
    RunKernel(const __grid_constant__ Kernel kernel) {
  kernel();
}

template <typename Kernel>
void Launch(Stream stream, Grid grid, const Kernel& kernel) {
  if (grid.x <= 0 || grid.y <= 0 || grid.z <= 0) return;
  const dim3 blocks(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y),
                    static_cast<unsigned>(grid.z));
  RunKernel<Kernel>
      <<<blocks, Kernel::kThreads, 0, static_cast<DeviceStream*>(stream.handle)->stream>>>(kernel);
}

}  // namespace hardware
}  // namespace qianyi::cuda
