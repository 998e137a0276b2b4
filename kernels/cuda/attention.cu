// Attention over the paged cache, a split of 256 slots at a time. A block has up to eight rows
// (a token and a head each) that share keys, and merges their splits in order; where that would
// leave most of the device idle, every split has a block and a second kernel merges in the same
// order, to the same bits.
#include "kernels/cuda/device_rows.h"
#include "kernels/cuda/kernels.h"

namespace qianyi::cuda::QIANYI_FLAVOUR {
namespace {

constexpr int kRows = 8;      // of a block: a warp for the softmax of each
constexpr int kMaxDim = 256;  // of a head when a block has all its rows; wider ones have fewer
static_assert(kRows * kMaxDim == kMaxHeadDim);
constexpr int kDims = 64;  // of values that are summed at once
constexpr int kParts = 4;  // that the slots of a split are cut into for values
constexpr int64_t kEnoughBlocks = 512;

// Where the state of a row stands among partial results: maximum, sum, then [value_dim].
struct AttentionTask {
  Attention args;
  int64_t group;         // query heads per kv head
  int64_t block_heads;   // of them in a block
  int64_t block_tokens;  // neighbours in the step; those with one page table share keys
  int64_t head_blocks;
  int64_t stride;  // elements of the wider of a head's key and value
  int64_t splits;  // 0: a block merges its splits itself
  float* partial;  // [tokens, heads, splits, 2 + value_dim]

  QIANYI_DEVICE Global<float> Partial(int64_t token, int64_t head, int64_t split) const {
    const int64_t width = 2 + args.layer.value_dim;
    return Global<float>(partial + ((token * args.heads + head) * splits + split) * width, width);
  }
  QIANYI_DEVICE int32_t Visible(int64_t token) const {
    return Global<const int32_t>(args.visible, args.q.rows).Load(token);
  }
  QIANYI_DEVICE const int32_t* Table(int64_t token) const {
    return Global<const int32_t* const>(args.pages, args.q.rows).Load(token);
  }
};

// The rows of a page of one kv head: keys or values.
template <typename T>
struct CacheRows {
  const KvLayer& layer;
  const int32_t* table;
  int64_t visible;            // slots that have pages
  int64_t head, dim, before;  // elements of a slot's row, and of the page in front of the rows
  bool value;

  QIANYI_DEVICE const std::byte* Page(int64_t slot) const {
    const int64_t pages = (visible + kPageTokens - 1) / kPageTokens;
    const int64_t page = Global<const int32_t>(table, pages).Load(slot / kPageTokens);
    return layer.pages + page * static_cast<int64_t>(layer.page_bytes);
  }
  QIANYI_DEVICE Global<const T> Row(int64_t slot) const {
    const int64_t offset = before + (slot % kPageTokens * layer.kv_heads + head) * dim;
    return Global<const T>(reinterpret_cast<const T*>(Page(slot)) + offset, dim);
  }
  // Of i8.
  QIANYI_DEVICE float Scale(int64_t slot) const {
    return CacheScale(layer, Page(slot), slot % kPageTokens, head, value);
  }
};

template <typename T>
struct AttentionKernel {
  static constexpr int kThreads = kRows * 32;
  static constexpr int kSlotLanes = 4;  // share the dot product of a slot
  AttentionTask task;

  struct Arrays {
    Shared<float> q, scores, parts, sums, state;  // state: max, sum, and those of the new split
    int64_t stride;                               // of rows of q and sums
  };
  // Rows of one page table.
  struct Run {
    int64_t first_token, first_head, kv_head;
    int heads, rows;
    int32_t longest;
    const int32_t* table;
  };

  QIANYI_DEVICE void operator()() const {
    QIANYI_SHARED(float, q, kRows* kMaxDim);
    QIANYI_SHARED(float, scores, kRows* kAttentionSplit);
    QIANYI_SHARED(float, parts, kParts* kRows* kDims);
    QIANYI_SHARED(float, sums, kRows* kMaxDim);
    QIANYI_SHARED(float, state, 4 * kRows);
    const Arrays arrays{q, scores, parts, sums, state, task.stride};
    Run run;
    run.kv_head = BlockIndex(1) / task.head_blocks;
    const int64_t head = BlockIndex(1) % task.head_blocks * task.block_heads;
    run.first_head = run.kv_head * task.group + head;
    run.heads = static_cast<int>(head + task.block_heads < task.group ? task.block_heads
                                                                      : task.group - head);
    int64_t token = BlockIndex(0) * task.block_tokens;
    const int64_t end =
        token + task.block_tokens < task.args.q.rows ? token + task.block_tokens : task.args.q.rows;
    while (token < end) {
      run.first_token = token;
      run.table = task.Table(token);
      run.longest = 0;
      for (; token < end && task.Table(token) == run.table; ++token) {
        const int32_t visible = task.Visible(token);
        run.longest = visible > run.longest ? visible : run.longest;
      }
      run.rows = static_cast<int>(token - run.first_token) * run.heads;
      Attend(run, arrays);
    }
  }

  QIANYI_DEVICE int64_t TokenOf(const Run& run, int row) const {
    return run.first_token + row / run.heads;
  }
  QIANYI_DEVICE int64_t HeadOf(const Run& run, int row) const {
    return run.first_head + row % run.heads;
  }
  // Slots of the split that a row sees.
  QIANYI_DEVICE int CountOf(const Run& run, int row, int64_t split) const {
    const int64_t count = task.Visible(TokenOf(run, row)) - split * kAttentionSplit;
    return static_cast<int>(count < 0 ? 0 : count > kAttentionSplit ? kAttentionSplit : count);
  }

  QIANYI_DEVICE void Attend(const Run& run, const Arrays& arrays) const {
    const int64_t dim = task.args.layer.key_dim;
    for (int i = ThreadIndex(); i < run.rows * dim; i += kThreads) {
      const int row = static_cast<int>(i / dim);
      const int64_t at = HeadOf(run, row) * dim + i % dim;
      arrays.q.Store(row * arrays.stride + i % dim, RowOf(task.args.q, TokenOf(run, row)).Load(at));
    }
    Barrier();
    const int64_t splits = (run.longest + kAttentionSplit - 1) / kAttentionSplit;
    if (task.splits > 0) {
      const int64_t split = BlockIndex(2);
      if (split < splits) {
        Scores(run, split, arrays);
        Softmax(run, split, arrays);
        Values(run, split, true, arrays);
        WritePartial(run, split, arrays);
      }
    } else {
      for (int64_t split = 0; split < splits; ++split) {
        Scores(run, split, arrays);
        Softmax(run, split, arrays);
        Values(run, split, split == 0, arrays);
      }
      WriteOut(run, arrays);
    }
    Barrier();
  }

  // scores[row][slot] = scale · q·k. Lane l of four sums dimensions 8 (l + 4 i) .. + 7 for i in
  // order; then the tree over the four.
  QIANYI_DEVICE void Scores(const Run& run, int64_t split, const Arrays& arrays) const {
    const KvLayer& layer = task.args.layer;
    const CacheRows<T> keys{layer, run.table, run.longest, run.kv_head, layer.key_dim, 0, false};
    const int64_t begin = split * kAttentionSplit;
    for (int slot = ThreadIndex() / kSlotLanes; slot < kAttentionSplit;
         slot += kThreads / kSlotLanes) {
      float sum[kRows] = {};
      if (begin + slot < run.longest) {
        const Global<const T> key = keys.Row(begin + slot);
        for (int64_t d = Lane() % kSlotLanes * 8; d < layer.key_dim; d += kSlotLanes * 8) {
          for (int64_t k = d; k < d + 8 && k < layer.key_dim; ++k) {
            const float value = Widen(key.Load(k));
            for (int row = 0; row < kRows; ++row) {  // so that the sums stay in registers
              if (row >= run.rows) continue;
              sum[row] = Fma(arrays.q.Load(row * arrays.stride + k), value, sum[row]);
            }
          }
        }
      }
      float scale = task.args.scale;
      if constexpr (kScaledCache<T>) {
        if (begin + slot < run.longest) scale *= keys.Scale(begin + slot);
      }
      for (int row = 0; row < kRows; ++row) {
        if (row >= run.rows) continue;
        float score = sum[row];
        score += ShuffleXor(score, 1);
        score += ShuffleXor(score, 2);
        if (Lane() % kSlotLanes == 0) {
          arrays.scores.Store(row * kAttentionSplit + slot, scale * score);
        }
      }
    }
    Barrier();
  }

  QIANYI_DEVICE CacheRows<T> ValueRows(const Run& run) const {
    const KvLayer& layer = task.args.layer;
    const bool shared = layer.values_in_keys;
    return {layer,
            run.table,
            run.longest,
            run.kv_head,
            shared ? layer.key_dim : layer.value_dim,
            shared ? 0 : kPageTokens * layer.kv_heads * layer.key_dim,
            true};
  }

  // Scores become exp(score - max), of i8 times the scale of the value; warp r has row r, a lane
  // the slots lane + 32 i.
  QIANYI_DEVICE void Softmax(const Run& run, int64_t split, const Arrays& arrays) const {
    [[maybe_unused]] const CacheRows<T> values = ValueRows(run);
    const int row = Warp();
    if (row < run.rows) {
      const int count = CountOf(run, row, split);
      float max = -__builtin_huge_valf();
      for (int j = Lane(); j < count; j += 32) {
        const float score = arrays.scores.Load(row * kAttentionSplit + j);
        max = score > max ? score : max;
      }
      for (int mask = 16; mask > 0; mask /= 2) {
        const float other = ShuffleXor(max, mask);
        max = other > max ? other : max;
      }
      float sum = 0.0f;
      for (int j = Lane(); j < count; j += 32) {
        const float p = Exp(arrays.scores.Load(row * kAttentionSplit + j) - max);
        float weight = p;
        if constexpr (kScaledCache<T>) weight *= values.Scale(split * kAttentionSplit + j);
        arrays.scores.Store(row * kAttentionSplit + j, weight);
        sum += p;
      }
      sum = WarpSum(sum);
      if (Lane() == 0) {
        arrays.state.Store(2 * kRows + row, max);
        arrays.state.Store(3 * kRows + row, sum);
      }
    }
    Barrier();
  }

  // Σ p[slot] value[slot]: each of four threads 64 slots in order, the four in order; then the
  // splits before enter.
  QIANYI_DEVICE void Values(const Run& run, int64_t split, bool first, const Arrays& arrays) const {
    const KvLayer& layer = task.args.layer;
    const CacheRows<T> values = ValueRows(run);
    const int part = ThreadIndex() / kDims, dim = ThreadIndex() % kDims;
    int counts[kRows];
    for (int row = 0; row < kRows; ++row) {
      counts[row] = row < run.rows ? CountOf(run, row, split) : 0;
    }
    for (int64_t d = 0; d < layer.value_dim; d += kDims) {
      float sum[kRows] = {};
      if (d + dim < layer.value_dim) {
        const int64_t begin = split * kAttentionSplit;
        for (int j = part * (kAttentionSplit / kParts); j < (part + 1) * (kAttentionSplit / kParts);
             ++j) {
          if (begin + j >= run.longest) break;
          const float value = Widen(values.Row(begin + j).Load(d + dim));
          for (int row = 0; row < kRows; ++row) {
            if (j >= counts[row]) continue;  // what a row does not see may be no number
            sum[row] = Fma(arrays.scores.Load(row * kAttentionSplit + j), value, sum[row]);
          }
        }
      }
      for (int row = 0; row < kRows; ++row) {
        arrays.parts.Store((part * kRows + row) * kDims + dim, sum[row]);
      }
      Barrier();
      for (int i = ThreadIndex(); i < run.rows * kDims; i += kThreads) {
        const int row = i / kDims;
        if (d + i % kDims < layer.value_dim && CountOf(run, row, split) > 0) {
          MergeValue(row, static_cast<int>(d) + i % kDims, first, arrays);
        }
      }
      Barrier();
    }
    if (ThreadIndex() < run.rows && CountOf(run, ThreadIndex(), split) > 0) {
      MergeState(ThreadIndex(), first, arrays);
    }
  }

  QIANYI_DEVICE static void MergeValue(int row, int d, bool first, const Arrays& arrays) {
    float fresh = arrays.parts.Load(row * kDims + d % kDims);
    for (int part = 1; part < kParts; ++part) {
      fresh += arrays.parts.Load((part * kRows + row) * kDims + d % kDims);
    }
    if (!first) {
      const float old_max = arrays.state.Load(row), new_max = arrays.state.Load(2 * kRows + row);
      const float max = new_max > old_max ? new_max : old_max;
      fresh = Fma(arrays.sums.Load(row * arrays.stride + d), Exp(old_max - max),
                  fresh * Exp(new_max - max));
    }
    arrays.sums.Store(row * arrays.stride + d, fresh);
  }

  QIANYI_DEVICE static void MergeState(int row, bool first, const Arrays& arrays) {
    const float new_max = arrays.state.Load(2 * kRows + row);
    const float new_sum = arrays.state.Load(3 * kRows + row);
    if (first) {
      arrays.state.Store(row, new_max);
      arrays.state.Store(kRows + row, new_sum);
      return;
    }
    const float old_max = arrays.state.Load(row);
    const float max = new_max > old_max ? new_max : old_max;
    arrays.state.Store(row, max);
    arrays.state.Store(kRows + row, Fma(arrays.state.Load(kRows + row), Exp(old_max - max),
                                        new_sum * Exp(new_max - max)));
  }

  QIANYI_DEVICE void WriteOut(const Run& run, const Arrays& arrays) const {
    Barrier();
    const int64_t dim = task.args.layer.value_dim;
    for (int i = ThreadIndex(); i < run.rows * dim; i += kThreads) {
      const int row = static_cast<int>(i / dim);
      const float inverse = 1.0f / arrays.state.Load(kRows + row);
      RowOf(task.args.out, TokenOf(run, row))
          .Store(HeadOf(run, row) * dim + i % dim,
                 arrays.sums.Load(row * arrays.stride + i % dim) * inverse);
    }
  }

  QIANYI_DEVICE void WritePartial(const Run& run, int64_t split, const Arrays& arrays) const {
    Barrier();
    const int64_t width = task.args.layer.value_dim + 2;
    for (int i = ThreadIndex(); i < run.rows * width; i += kThreads) {
      const int row = static_cast<int>(i / width);
      if (CountOf(run, row, split) == 0) continue;
      const int64_t at = i % width;
      task.Partial(TokenOf(run, row), HeadOf(run, row), split)
          .Store(at, at < 2 ? arrays.state.Load(at * kRows + row)
                            : arrays.sums.Load(row * arrays.stride + at - 2));
    }
  }
};

// Block (token, head): merges splits in order, with the operations of AttentionKernel.
struct MergeKernel {
  static constexpr int kThreads = 128;
  AttentionTask task;

  QIANYI_DEVICE void operator()() const {
    const int64_t token = BlockIndex(0), head = BlockIndex(1), dim = task.args.layer.value_dim;
    const int64_t splits = (task.Visible(token) + kAttentionSplit - 1) / kAttentionSplit;
    const Global<float> out = RowOf(task.args.out, token);
    for (int64_t d = ThreadIndex(); d < dim; d += kThreads) {
      const Global<float> first = task.Partial(token, head, 0);
      float max = first.Load(0), sum = first.Load(1), value = first.Load(2 + d);
      for (int64_t split = 1; split < splits; ++split) {
        const Global<float> next = task.Partial(token, head, split);
        const float new_max = next.Load(0);
        const float both = new_max > max ? new_max : max;
        const float old_factor = Exp(max - both), new_factor = Exp(new_max - both);
        value = Fma(value, old_factor, next.Load(2 + d) * new_factor);
        sum = Fma(sum, old_factor, next.Load(1) * new_factor);
        max = both;
      }
      out.Store(head * dim + d, value * (1.0f / sum));
    }
  }
};

}  // namespace

void RunAttention(const Attention& args, Stream stream) {
  if (args.q.rows == 0) return;
  AttentionTask task;
  task.args = args;
  task.group = args.heads / args.layer.kv_heads;
  task.stride =
      args.layer.key_dim > args.layer.value_dim ? args.layer.key_dim : args.layer.value_dim;
  const int64_t fit = int64_t{kRows} * kMaxDim / task.stride;
  const int64_t rows = fit < kRows ? fit : kRows;
  task.block_heads = task.group < rows ? task.group : rows;
  task.head_blocks = CeilDiv(task.group, task.block_heads);
  const int64_t heads = args.layer.kv_heads * task.head_blocks;
  task.block_tokens = args.q.rows * heads < kEnoughBlocks ? 1 : rows / task.block_heads;
  const Grid blocks{CeilDiv(args.q.rows, task.block_tokens), heads};
  const int64_t splits = CeilDiv(args.longest, kAttentionSplit);
  const size_t bytes =
      sizeof(float) * args.q.rows * args.heads * splits * (2 + args.layer.value_dim);
  const bool spread = splits > 1 && blocks.x * blocks.y < kEnoughBlocks && bytes <= kWorkspaceBytes;
  task.splits = spread ? splits : 0;
  task.partial = static_cast<float*>(static_cast<DeviceStream*>(stream.handle)->workspace);
  const Grid grid{blocks.x, blocks.y, spread ? splits : 1};
  if (args.layer.dtype == DType::kF32) {
    Launch(stream, grid, AttentionKernel<float>{task});
  } else if (args.layer.dtype == DType::kI8) {
    Launch(stream, grid, AttentionKernel<int8_t>{task});
  } else if (args.layer.dtype == DType::kBF16) {
    Launch(stream, grid, AttentionKernel<BFloat>{task});
  } else {
    Launch(stream, grid, AttentionKernel<uint16_t>{task});
  }
  if (spread) Launch(stream, {args.q.rows, args.heads}, MergeKernel{task});
}

}  // namespace qianyi::cuda::QIANYI_FLAVOUR
