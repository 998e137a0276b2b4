// Enqueue(stream, product): a product by the library of a stream, behind the work that the stream
// has by then. False, and then nothing was enqueued, where the library fails.
#pragma once

#include "kernels/cuda/device.h"

namespace qianyi::cuda::QIANYI_FLAVOUR {

#if defined(__CUDACC__)

inline bool Enqueue(Stream stream, const LibraryProduct& product) {
  DeviceStream& on = *static_cast<DeviceStream*>(stream.handle);
  return on.library.Multiply(product, on.library.workspace, on.stream);
}

#else

// The library is given the host's addresses, when the work is done.
template <typename T>
T* HostArray(T* data, int64_t bytes) {
  return data == nullptr ? data : static_cast<T*>(emulation::HostAddress(data, bytes));
}
inline bool Enqueue(Stream stream, const LibraryProduct& given) {
  DeviceStream& on = *static_cast<DeviceStream*>(stream.handle);
  on.queue.Add([&on, given] {
    LibraryProduct product = given;
    const auto rows_bytes = [&](int64_t stride) {
      return static_cast<int64_t>(sizeof(float)) * ((product.tokens - 1) * stride + product.rows);
    };
    product.weights = HostArray(product.weights, product.rows * product.cols * 2);
    product.x = HostArray(product.x, product.tokens * product.cols * 2);
    product.bias = HostArray(product.bias, product.rows * sizeof(float));
    product.residual = HostArray(product.residual, rows_bytes(product.residual_stride));
    product.out = HostArray(product.out, rows_bytes(product.out_stride));
    void* const workspace = HostArray(on.library.workspace, LibraryRoom::kWorkspaceBytes);
    if (!on.library.Multiply(product, workspace, nullptr)) {
      emulation::Fault("the library refuses a product that it was chosen for");
    }
  });
  return true;
}

#endif

}  // namespace qianyi::cuda::QIANYI_FLAVOUR
