#include <cstring>

#include "kernels/cpu/drivers.h"

namespace qianyi::cpu {
namespace {

// Keys or values of one token: `heads` of `dim`, to `out`, and of i8 the scales of its slot.
void Store(const float* row, int64_t heads, int64_t dim, DType dtype, const RowKernels& kernels,
           std::byte* out, float* scales) {
  if (dtype == DType::kF32) {
    std::memcpy(out, row, heads * dim * sizeof(float));
  } else if (dtype == DType::kI8) {
    for (int64_t head = 0; head < heads; ++head) {
      scales[head] =
          kernels.to_int8(row + head * dim, dim, reinterpret_cast<int8_t*>(out) + head * dim);
    }
  } else if (dtype == DType::kBF16) {
    kernels.to_bfloat(row, heads * dim, reinterpret_cast<uint16_t*>(out));
  } else {
    kernels.to_half(row, heads * dim, reinterpret_cast<uint16_t*>(out));
  }
}

}  // namespace

void RunKvWrite(const KvWrite& args, ThreadPool& pool, const RowKernels& kernels) {
  const KvLayer& layer = args.layer;
  const size_t element = layer.element_bytes();
  const int64_t key_cols = layer.key_cols(), value_cols = layer.value_cols();
  pool.Run(args.k.rows, 8, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t offset = args.slots[t] % kPageTokens;
      KvLayer page = layer;
      page.pages += args.slots[t] / kPageTokens * layer.page_bytes;
      std::byte* values = page.pages + kPageTokens * key_cols * element;
      Store(args.k.f32(t), layer.kv_heads, layer.key_dim, layer.dtype, kernels,
            page.pages + offset * key_cols * element, page.key_scales() + offset * layer.kv_heads);
      if (value_cols == 0) continue;
      Store(args.v.f32(t), layer.kv_heads, layer.value_dim, layer.dtype, kernels,
            values + offset * value_cols * element, page.value_scales() + offset * layer.kv_heads);
    }
  });
}

}  // namespace qianyi::cpu
