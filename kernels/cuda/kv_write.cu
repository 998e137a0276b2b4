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
      Global<uint16_t>(reinterpret_cast<uint16_t*>(page), elements).Store(at, HalfOfFloat(value));
    }
  }
};

}  // namespace

void RunKvWrite(const KvWrite& args, Stream stream) {
  const int64_t cols = args.layer.key_cols() + args.layer.value_cols();
  Launch(stream, {args.k.rows, CeilDiv(cols, KvWriteKernel::kThreads)}, KvWriteKernel{args});
}

}  // namespace qianyi::cuda::QIANYI_FLAVOUR
