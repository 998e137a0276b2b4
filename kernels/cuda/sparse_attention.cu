// Attention over lists of slots, 256 of a list at a time, a block for each token and head. Splits
// are merged in order.
#include "kernels/cuda/device_rows.h"
#include "kernels/cuda/kernels.h"

namespace qianyi::cuda::QIANYI_FLAVOUR {
namespace {

template <typename T>
struct SparseAttentionKernel {
  static constexpr int kThreads = 128;
  static constexpr int kSplit = 256;
  SparseAttention args;

  struct Arrays {
    Shared<float> q, scores, sums, state;  // state: max, sum, and what to multiply old sums by
  };
  // The slots of a token, for one head.
  struct List {
    Global<const int32_t> slots;
    int64_t count, pivots, head, kv_head;
    const int32_t* table;
  };

  QIANYI_DEVICE void operator()() const {
    QIANYI_SHARED(float, q, kMaxHeadDim);
    QIANYI_SHARED(float, scores, kSplit);
    QIANYI_SHARED(float, sums, kMaxHeadDim);
    QIANYI_SHARED(float, state, 3);
    const Arrays arrays{q, scores, sums, state};
    const int64_t t = BlockIndex(0), rows = args.q.rows;
    const Global<const int64_t> offsets(args.offsets, rows + 1);
    const int64_t begin = offsets.Load(t), count = offsets.Load(t + 1) - begin;
    const int64_t head = BlockIndex(1);
    const List list{Global<const int32_t>(args.slots + begin, count),
                    count,
                    Global<const int32_t>(args.pivots, rows).Load(t),
                    head,
                    head / (args.heads / args.layer.kv_heads),
                    Global<const int32_t* const>(args.pages, rows).Load(t)};
    const int64_t key_dim = args.layer.key_dim, value_dim = args.layer.value_dim;
    for (int64_t d = ThreadIndex(); d < key_dim; d += kThreads) {
      q.Store(d, RowOf(args.q, t).Load(head * key_dim + d));
    }
    for (int64_t first = 0; first < count; first += kSplit) {
      const int size = static_cast<int>(count - first < kSplit ? count - first : kSplit);
      Barrier();
      Scores(list, first, size, arrays);
      Barrier();
      if (Warp() == 0) Softmax(list, first, size, arrays);
      Barrier();
      Values(list, first, size, arrays);
    }
    Barrier();
    const float inverse = 1.0f / state.Load(1);
    for (int64_t d = ThreadIndex(); d < value_dim; d += kThreads) {
      RowOf(args.out, t).Store(head * value_dim + d, sums.Load(d) * inverse);
    }
  }

  QIANYI_DEVICE const std::byte* Page(const List& list, int64_t slot) const {
    const int64_t index = slot / kPageTokens;
    const int64_t page = Global<const int32_t>(list.table, index + 1).Load(index);
    return args.layer.pages + page * static_cast<int64_t>(args.layer.page_bytes);
  }
  // The row of a slot in its page: `before` elements of the page, then `dim` for each kv head.
  QIANYI_DEVICE Global<const T> Row(const List& list, int64_t i, int64_t before,
                                    int64_t dim) const {
    const int64_t slot = list.slots.Load(i);
    const T* data = reinterpret_cast<const T*>(Page(list, slot));
    return Global<const T>(
        data + before + (slot % kPageTokens * args.layer.kv_heads + list.kv_head) * dim, dim);
  }
  // Of i8.
  QIANYI_DEVICE float Scale(const List& list, int64_t i, bool value) const {
    const int64_t slot = list.slots.Load(i);
    return CacheScale(args.layer, Page(list, slot), slot % kPageTokens, list.kv_head, value);
  }

  // A warp has every fourth slot; lane l sums dimensions l, l + 32, …, then WarpSum.
  QIANYI_DEVICE void Scores(const List& list, int64_t first, int size, const Arrays& arrays) const {
    const int64_t dim = args.layer.key_dim;
    for (int j = Warp(); j < size; j += kThreads / 32) {
      const Global<const T> key = Row(list, first + j, 0, dim);
      float dot = 0.0f;
      for (int64_t d = Lane(); d < dim; d += 32) {
        dot = Fma(arrays.q.Load(d), Widen(key.Load(d)), dot);
      }
      dot = WarpSum(dot);
      if constexpr (kScaledCache<T>) dot *= Scale(list, first + j, false);
      const float bias = first + j < list.pivots ? args.pivot_bias : 0.0f;
      if (Lane() == 0) arrays.scores.Store(j, Fma(args.scale, dot, bias));
    }
  }

  // Scores become exp(score - max) of all splits so far, of i8 times the scale of the value.
  QIANYI_DEVICE void Softmax(const List& list, int64_t first, int size,
                             const Arrays& arrays) const {
    const bool is_first = first == 0;
    const float old_max = is_first ? -__builtin_huge_valf() : arrays.state.Load(0);
    const float old_sum = is_first ? 0.0f : arrays.state.Load(1);
    float max = old_max;
    for (int j = Lane(); j < size; j += 32) {
      const float score = arrays.scores.Load(j);
      max = score > max ? score : max;
    }
    for (int mask = 16; mask > 0; mask /= 2) {
      const float other = ShuffleXor(max, mask);
      max = other > max ? other : max;
    }
    float sum = 0.0f;
    for (int j = Lane(); j < size; j += 32) {
      const float p = Exp(arrays.scores.Load(j) - max);
      float weight = p;
      if constexpr (kScaledCache<T>) weight *= Scale(list, first + j, true);
      arrays.scores.Store(j, weight);
      sum += p;
    }
    sum = WarpSum(sum);
    if (Lane() != 0) return;
    const float factor = is_first ? 0.0f : Exp(old_max - max);
    arrays.state.Store(0, max);
    arrays.state.Store(1, Fma(old_sum, factor, sum));
    arrays.state.Store(2, factor);
  }

  QIANYI_DEVICE void Values(const List& list, int64_t first, int size, const Arrays& arrays) const {
    const KvLayer& layer = args.layer;
    const int64_t dim = layer.values_in_keys ? layer.key_dim : layer.value_dim;
    const int64_t before = layer.values_in_keys ? 0 : kPageTokens * layer.kv_heads * layer.key_dim;
    const float factor = arrays.state.Load(2);
    for (int64_t d = ThreadIndex(); d < layer.value_dim; d += kThreads) {
      float sum = first == 0 ? 0.0f : arrays.sums.Load(d) * factor;
      for (int j = 0; j < size; ++j) {
        sum = Fma(arrays.scores.Load(j), Widen(Row(list, first + j, before, dim).Load(d)), sum);
      }
      arrays.sums.Store(d, sum);
    }
  }
};

}  // namespace

void RunSparseAttention(const SparseAttention& args, Stream stream) {
  if (args.layer.dtype == DType::kF32) {
    Launch(stream, {args.q.rows, args.heads}, SparseAttentionKernel<float>{args});
  } else if (args.layer.dtype == DType::kI8) {
    Launch(stream, {args.q.rows, args.heads}, SparseAttentionKernel<int8_t>{args});
  } else if (args.layer.dtype == DType::kBF16) {
    Launch(stream, {args.q.rows, args.heads}, SparseAttentionKernel<BFloat>{args});
  } else {
    Launch(stream, {args.q.rows, args.heads}, SparseAttentionKernel<uint16_t>{args});
  }
}

}  // namespace qianyi::cuda::QIANYI_FLAVOUR
