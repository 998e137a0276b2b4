#include "kernels/cpu/drivers.h"

namespace qianyi::cpu {

static_assert(kMaxSparseSlots * sizeof(float) <= kScratchBytes);

void RunSparseAttention(const SparseAttention& args, ThreadPool& pool, const RowKernels& kernels) {
  const KvLayer& layer = args.layer;
  const int64_t element = static_cast<int64_t>(layer.element_bytes());
  const int64_t group = args.heads / layer.kv_heads;
  pool.Run(args.q.rows * args.heads, 1, [&](int64_t begin, int64_t end, int worker) {
    SparseHead head;
    head.pivot_bias = args.pivot_bias;
    head.page_bytes = layer.page_bytes;
    head.key_stride = layer.kv_heads * layer.key_dim * element;
    head.value_stride =
        layer.values_in_keys ? head.key_stride : layer.kv_heads * layer.value_dim * element;
    head.dtype = layer.dtype;
    head.scale_stride = layer.kv_heads;
    head.key_dim = layer.key_dim;
    head.value_dim = layer.value_dim;
    head.scale = args.scale;
    head.scores = reinterpret_cast<float*>(pool.scratch(worker));
    for (int64_t task = begin; task < end; ++task) {
      const int64_t t = task / args.heads, h = task % args.heads;
      head.q = args.q.f32(t) + h * layer.key_dim;
      head.slots = args.slots + args.offsets[t];
      head.count = args.offsets[t + 1] - args.offsets[t];
      head.pivots = args.pivots[t];
      head.page_table = args.pages[t];
      head.keys = layer.pages + h / group * layer.key_dim * element;
      head.values = layer.values_in_keys ? head.keys
                                         : layer.pages + kPageTokens * head.key_stride +
                                               h / group * layer.value_dim * element;
      if (layer.dtype == DType::kI8) {
        head.key_scales = layer.key_scales() + h / group;
        head.value_scales = layer.value_scales() + h / group;
      }
      head.out = args.out.f32(t) + h * layer.value_dim;
      kernels.sparse_attention(head);
    }
  });
}

}  // namespace qianyi::cpu
