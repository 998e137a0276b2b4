// The one way to hardware for device code. It is there twice: for nvcc, and in plain C++ with
// the threads of a block as fibers, so that the same .cu files run in every test
// (kernels/cuda/emulation.h says what is watched there). Both headers define, in a namespace of
// their own so that one program may have both:
//
//   QIANYI_DEVICE                       before functions that run on the device
//   ThreadIndex() BlockIndex(axis)      which thread of the block, which block of the grid
//   Lane() Warp()                       which thread of the warp, which warp of the block
//   Barrier()                           all threads of the block, or none
//   WarpBarrier()                       all 32 threads of the warp, like all operations below
//   ShuffleXor(value, mask)             the value of lane ^ mask
//   Global<T>(pointer, count)           an array in device memory: Load, Store, LoadAs<U>,
//                                       StoreAs<U>, LoadOnce<U> (will not be read again)
//   QIANYI_SHARED(T, name, count)       an array of the block: name is a Shared<T>, with Load,
//                                       Store, LoadAs<U>, StoreAs<U>
//   AtomicAdd(array, i, value)          of either kind; gives the old value
//   CopyAsync16(shared, i, global, j)   16 bytes; CommitCopies(), WaitForCopies<groups left>()
//   MmaInt8 MmaTf32                     products of fragments on tensor cores
//   Launch(stream, grid, kernel)        kernel() in kernel.kThreads threads of each block
//
// Fragments (PTX ISA, "Matrix Fragments for mma"): with g = lane / 4 and t = lane % 4,
//   m16n8k32 s8:   a[0] = A[g][4t..4t+3],     a[1] = A[g+8][4t..], a[2] = A[g][4t+16..],
//                  a[3] = A[g+8][4t+16..];    b[0] = B[4t..][g],   b[1] = B[4t+16..][g]
//   m16n8k8 tf32:  a[0] = A[g][t], a[1] = A[g+8][t], a[2] = A[g][t+4], a[3] = A[g+8][t+4];
//                  b[0] = B[t][g], b[1] = B[t+4][g]
//   both:          c[0], c[1] = C[g][2t], C[g][2t+1]; c[2], c[3] = C[g+8][2t], C[g+8][2t+1]
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/backend.h"

namespace qianyi::cuda {

struct Grid {
  int64_t x = 1, y = 1, z = 1;
};
struct alignas(16) Words4 {
  uint32_t word[4];
};
struct alignas(8) Words2 {
  uint32_t word[2];
};

// Memory that kernels share between launches, of every stream.
inline constexpr size_t kWorkspaceBytes = size_t{32} << 20;

}  // namespace qianyi::cuda

#if defined(__CUDACC__)
#include "kernels/cuda/device_nvcc.h"
#else
#include "kernels/cuda/device_emulated.h"
#endif
