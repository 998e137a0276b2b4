#include <cstring>

#include "kernels/cpu/drivers.h"

namespace qianyi::cpu {

void RunKvWrite(const KvWrite& args, ThreadPool& pool, const RowKernels& kernels) {
  const KvLayer& layer = args.layer;
  const size_t element = layer.element_bytes();
  const int64_t key_cols = layer.key_cols(), value_cols = layer.value_cols();
  const auto store = [&](const float* row, int64_t cols, std::byte* out) {
    if (layer.dtype == DType::kF32) {
      std::memcpy(out, row, cols * sizeof(float));
    } else {
      kernels.to_half(row, cols, reinterpret_cast<uint16_t*>(out));
    }
  };
  pool.Run(args.k.rows, 8, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t page = args.slots[t] / kPageTokens, offset = args.slots[t] % kPageTokens;
      std::byte* keys = layer.pages + page * layer.page_bytes;
      std::byte* values = keys + kPageTokens * key_cols * element;
      store(args.k.f32(t), key_cols, keys + offset * key_cols * element);
      if (value_cols == 0) continue;
      store(args.v.f32(t), value_cols, values + offset * value_cols * element);
    }
  });
}

}  // namespace qianyi::cpu
