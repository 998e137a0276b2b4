#include "kernels/cuda/device_rows.h"
#include "kernels/cuda/kernels.h"

namespace qianyi::cuda::QIANYI_FLAVOUR {
namespace {

// A thread per element: block (t, j) has elements 256 j and on of token t's keys, then values.
struct KvWriteKernel {
  static constexpr int kThreads = 256;
  KvWrite args;

  QIANYI_DEVICE void operator()() const {
    const KvLayer& layer = args.layer;
    const int64_t key_cols = layer.kv_heads * layer.key_dim;
    const int64_t value_cols = layer.values_in_keys ? 0 : layer.kv_heads * layer.value_dim;
    const int64_t t = BlockIndex(0), c = BlockIndex(1) * kThreads + ThreadIndex();
    if (c >= key_cols + value_cols) return;
    const int64_t slot = Global<const int64_t>(args.slots, args.k.rows).Load(t);
    std::byte* page = layer.pages + slot / kPageTokens * static_cast<int64_t>(layer.page_bytes);
    const int64_t offset = slot % kPageTokens;
    const bool key = c < key_cols;
    const int64_t at =
        key ? offset * key_cols + c : kPageTokens * key_cols + offset * value_cols + c - key_cols;
    const float value = key ? RowOf(args.k, t).Load(c) : RowOf(args.v, t).Load(c - key_cols);
    const int64_t elements = kPageTokens * (key_cols + value_cols);
    if (layer.dtype == DType::kF32) {
      Global<float>(reinterpret_cast<float*>(page), elements).Store(at, value);
    } else {
      const bool bfloat = layer.dtype == DType::kBF16;
      Global<uint16_t>(reinterpret_cast<uint16_t*>(page), elements)
          .Store(at, bfloat ? BFloatOfFloat(value).bits : HalfOfFloat(value));
    }
  }
};

// Block (t, h) has a head's keys of token t; from kv_heads on, its values.
struct KvQuantizeKernel {
  static constexpr int kThreads = 64;
  KvWrite args;

  QIANYI_DEVICE void operator()() const {
    QIANYI_SHARED(uint32_t, maxima, kThreads / 32);
    const KvLayer& layer = args.layer;
    const int64_t heads = layer.kv_heads;
    const int64_t t = BlockIndex(0), head = BlockIndex(1) % heads;
    const bool key = BlockIndex(1) < heads;
    const int64_t slot = Global<const int64_t>(args.slots, args.k.rows).Load(t);
    std::byte* page = layer.pages + slot / kPageTokens * static_cast<int64_t>(layer.page_bytes);
    const int64_t dim = key ? layer.key_dim : layer.value_dim;
    const int64_t before = key ? 0 : kPageTokens * heads * layer.key_dim;
    const Global<float> x = key ? RowOf(args.k, t) : RowOf(args.v, t);
    uint32_t bits = 0;
    for (int64_t d = ThreadIndex(); d < dim; d += kThreads) {
      const uint32_t magnitude = BitsOf(x.Load(head * dim + d)) & 0x7fffffffu;
      bits = magnitude > bits ? magnitude : bits;
    }
    const Int8Scale to = Int8ScaleOf(BlockMaxBits<kThreads>(bits, maxima));
    int8_t* row =
        reinterpret_cast<int8_t*>(page) + before + (slot % kPageTokens * heads + head) * dim;
    for (int64_t d = ThreadIndex(); d < dim; d += kThreads) {
      const int q = to.finite ? RoundToInt8(x.Load(head * dim + d) * to.inverse) : 0;
      Global<int8_t>(row, dim).Store(d, static_cast<int8_t>(q));
    }
    if (ThreadIndex() != 0) return;
    const int64_t values = layer.values_in_keys ? 0 : layer.value_dim;
    float* scales = reinterpret_cast<float*>(page + kPageTokens * heads * (layer.key_dim + values));
    const int64_t at = (key ? 0 : kPageTokens * heads) + slot % kPageTokens * heads + head;
    Global<float>(scales, 2 * kPageTokens * heads).Store(at, to.scale);
  }
};

}  // namespace

void RunKvWrite(const KvWrite& args, Stream stream) {
  if (args.layer.dtype == DType::kI8) {
    const int64_t parts = args.layer.values_in_keys ? 1 : 2;
    Launch(stream, {args.k.rows, parts * args.layer.kv_heads}, KvQuantizeKernel{args});
    return;
  }
  const int64_t cols = args.layer.key_cols() + args.layer.value_cols();
  Launch(stream, {args.k.rows, CeilDiv(cols, KvWriteKernel::kThreads)}, KvWriteKernel{args});
}

}  // namespace qianyi::cuda::QIANYI_FLAVOUR
