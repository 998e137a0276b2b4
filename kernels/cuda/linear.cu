// Linear layers on tensor cores. The panels of kernels/packed.h are the fragments of mma as they
// lie: a lane's four words are rows g and g + 8 of quads (or pairs of 16-bit columns) t and t + 4,
// and a warp reads whole sectors. Many tokens with integer weights: linear_large.cu.
//
// int8, int4: the sums of a slice are exact integers and the slices are added in order, so the
// bits are those of the CPU (docs/numerics.md). f16, bf16: weights are exact in tf32; activations
// are cut into two tf32 parts, which keeps 21 bits of them and the range of f32. A warp sums one
// slice, the slices are added in order. f32: the CPU's order, on plain cores.
#include <type_traits>

#include "kernels/cuda/device_rows.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/linear_task.h"

namespace qianyi::cuda::QIANYI_FLAVOUR {
namespace {

// Sums of one slice for kTokenTiles · 8 tokens from `first_token` on, as this lane has them.
template <int kTokenTiles>
struct IntegerSlice {
  using Sum = int32_t;
  const LinearTask& task;

  QIANYI_DEVICE void operator()(int64_t panel_index, int64_t slice, int64_t first_token,
                                int32_t (&sum)[kTokenTiles][4]) const {
    const Global<const uint32_t> panel = task.Panel(panel_index);
    const int64_t all = task.padded_cols / kTileCols, begin = slice * (kSliceCols / kTileCols);
    const int64_t end = begin + kSliceCols / kTileCols < all ? begin + kSliceCols / kTileCols : all;
    for (int64_t tile = begin; tile < end; ++tile) {
      if (task.args.weight.format.dtype == DType::kI8) {
        for (int half = 0; half < 2; ++half) {
          uint32_t a[4];
          LoadFragment(panel, (task.tile_offset + tile * 1024) / 4 + half * 128, a);
          Multiply(a, tile * kTileCols + half * 32, first_token, sum);
        }
      } else {
        Int4Tile(panel, tile, first_token, sum);
      }
    }
  }

  QIANYI_DEVICE void Int4Tile(const Global<const uint32_t>& panel, int64_t tile,
                              int64_t first_token, int32_t (&sum)[kTokenTiles][4]) const {
    uint32_t word[4], low[4], high[4];
    LoadFragment(panel, (task.tile_offset + tile * 512) / 4, word);
    for (int i = 0; i < 4; ++i) {
      low[i] = SignedNibbles(word[i]);
      high[i] = SignedNibbles(word[i] >> 4);
    }
    const int64_t col = tile * kTileCols;
    const int group = task.args.weight.format.group;
    if (group == 0) {
      Multiply(low, col, first_token, sum);
      Multiply(high, col + 32, first_token, sum);
      return;
    }
    int32_t part[kTokenTiles][4] = {};
    Multiply(low, col, first_token, part);
    if (group == 32) {
      AddScaled(panel, col / 32, part, sum);
      for (auto& tokens : part) {
        for (int32_t& value : tokens) value = 0;
      }
    }
    Multiply(high, col + 32, first_token, part);
    AddScaled(panel, (col + 32) / group, part, sum);
  }

  QIANYI_DEVICE static void AddScaled(const Global<const uint32_t>& panel, int64_t group,
                                      const int32_t (&part)[kTokenTiles][4],
                                      int32_t (&sum)[kTokenTiles][4]) {
    const GroupScales scales = LoadGroupScales(panel, group);
    for (int n = 0; n < kTokenTiles; ++n) scales.AddTo(part[n], sum[n]);
  }

  // 32 columns from `col` on.
  QIANYI_DEVICE void Multiply(const uint32_t (&a)[4], int64_t col, int64_t first_token,
                              int32_t (&sum)[kTokenTiles][4]) const {
    for (int n = 0; n < kTokenTiles; ++n) {
      const int64_t token = first_token + n * kTileTokens + Lane() / 4;
      uint32_t b[2] = {};
      if (token < task.tokens) {
        const Global<const uint32_t> x(reinterpret_cast<const uint32_t*>(
                                           task.args.quantized.values + token * task.padded_cols),
                                       task.padded_cols / 4);
        b[0] = x.Load(col / 4 + Lane() % 4);
        b[1] = x.Load(col / 4 + Lane() % 4 + 4);
      }
      MmaInt8(sum[n], a, b);
    }
  }
};

template <int kTokenTiles>
struct HalfSlice {
  using Sum = float;
  const LinearTask& task;

  QIANYI_DEVICE void operator()(int64_t panel_index, int64_t slice, int64_t first_token,
                                float (&sum)[kTokenTiles][4]) const {
    const Global<const uint32_t> panel = task.Panel(panel_index);
    const int64_t cols = task.args.weight.cols, begin = slice * kSliceCols;
    const int64_t end = begin + kSliceCols < cols ? begin + kSliceCols : cols;
    const bool bfloat = task.args.weight.format.dtype == DType::kBF16;
    const int64_t pairs = (cols + 1) / 2;
    for (int64_t col = begin; col < end; col += 16) {
      uint32_t word[4] = {}, even[4], odd[4];
      const int64_t pair = col / 2 + Lane() % 4, at = pair * kPanelRows + Lane() / 4;
      if (pair < pairs) {
        word[0] = panel.LoadOnce<uint32_t>(at);
        word[1] = panel.LoadOnce<uint32_t>(at + 8);
      }
      if (pair + 4 < pairs) {
        word[2] = panel.LoadOnce<uint32_t>(at + 64);
        word[3] = panel.LoadOnce<uint32_t>(at + 72);
      }
      for (int i = 0; i < 4; ++i) {
        even[i] = bfloat ? word[i] << 16 : BitsOf(FloatOfHalf(static_cast<uint16_t>(word[i])));
        odd[i] = bfloat ? word[i] & 0xffff0000u
                        : BitsOf(FloatOfHalf(static_cast<uint16_t>(word[i] >> 16)));
      }
      for (int n = 0; n < kTokenTiles; ++n) {
        Multiply(even, col, first_token + n * kTileTokens, sum[n]);
        Multiply(odd, col + 1, first_token + n * kTileTokens, sum[n]);
      }
    }
  }

  // Columns col, col + 2, … col + 14.
  QIANYI_DEVICE void Multiply(const uint32_t (&a)[4], int64_t col, int64_t first_token,
                              float (&sum)[4]) const {
    const int64_t token = first_token + Lane() / 4;
    uint32_t high[2], low[2];
    for (int i = 0; i < 2; ++i) {
      const int64_t c = col + 2 * (Lane() % 4) + 8 * i;
      const bool inside = token < task.tokens && c < task.args.weight.cols;
      const float x = inside ? RowOf(task.args.x, token).Load(c) : 0.0f;
      high[i] = BitsOf(x) & 0xffffe000u;
      low[i] = BitsOf(x - FloatOf(high[i]));
    }
    MmaTf32(sum, a, high);
    MmaTf32(sum, a, low);
  }
};

// Block (i, j) has panel j and tokens from i · 8 · kTokenTiles on, so that blocks that read the
// same weights run together. Its warps take slices in turn.
template <template <int> typename Slice, int kTokenTiles>
struct LinearKernel {
  static constexpr int kWarps = 8, kThreads = kWarps * 32;
  static constexpr int kTokens = kTokenTiles * kTileTokens;
  static constexpr int kStride = 20;  // of a token's 16 rows: lanes write to banks of their own
  static constexpr int kOutputs = kTokens * kPanelRows;
  static constexpr int kOwn = kOutputs > kThreads ? kOutputs / kThreads : 1;
  using Sum = typename Slice<kTokenTiles>::Sum;
  static constexpr bool kFloat = std::is_same_v<Sum, float>;
  LinearTask task;

  QIANYI_DEVICE void operator()() const {
    QIANYI_SHARED(Sum, sums, kWarps * kTokens * kStride);
    const int64_t panel = BlockIndex(1), first_token = BlockIndex(0) * kTokens;
    float y[kOwn] = {};
    for (int64_t round = 0; round < task.slices; round += kWarps) {
      if (round + Warp() < task.slices) {
        Sum sum[kTokenTiles][4] = {};
        Slice<kTokenTiles>{task}(panel, round + Warp(), first_token, sum);
        for (int n = 0; n < kTokenTiles; ++n) {
          for (int i = 0; i < 4; ++i) {
            const int token = n * kTileTokens + Lane() % 4 * 2 + i % 2;
            const int row = Lane() / 4 + i / 2 * 8;
            sums.Store((Warp() * kTokens + token) * kStride + row, sum[n][i]);
          }
        }
      }
      Barrier();
      AddSlices(sums, round, first_token, y);
      Barrier();
    }
    for (int i = 0; i < kOwn; ++i) {
      const int output = ThreadIndex() + i * kThreads;
      const int64_t t = first_token + output / kPanelRows;
      const int64_t row = panel * kPanelRows + output % kPanelRows;
      if (output >= kOutputs || t >= task.tokens || row >= task.args.weight.rows) continue;
      if constexpr (!kFloat) {
        y[i] *= FloatOf(task.Panel(panel).Load(output % kPanelRows));
      }
      task.Finish(t, row, y[i]);
    }
  }

  // In index order, whatever warp had them.
  QIANYI_DEVICE void AddSlices(const Shared<Sum>& sums, int64_t round, int64_t first_token,
                               float (&y)[kOwn]) const {
    for (int i = 0; i < kOwn; ++i) {
      const int output = ThreadIndex() + i * kThreads;
      const int64_t t = first_token + output / kPanelRows;
      if (output >= kOutputs || t >= task.tokens) continue;
      for (int64_t slice = round; slice < round + kWarps && slice < task.slices; ++slice) {
        const Sum sum = sums.Load(((slice - round) * kTokens + output / kPanelRows) * kStride +
                                  output % kPanelRows);
        if constexpr (kFloat) {
          y[i] = slice == 0 ? sum : y[i] + sum;
        } else {
          const Global<const float> scales(task.args.quantized.scales + t * task.slices,
                                           task.slices);
          y[i] = Fma(static_cast<float>(sum), scales.Load(slice), y[i]);
        }
      }
    }
  }
};

// Block (i, j) has panel j and kTokens tokens; a thread sums one slice of one row.
struct FloatLinearKernel {
  static constexpr int kThreads = 256, kSlicesAtOnce = kThreads / kPanelRows, kTokens = 4;
  LinearTask task;

  QIANYI_DEVICE void operator()() const {
    QIANYI_SHARED(float, sums, kTokens* kThreads);
    const int64_t panel_index = BlockIndex(1), first_token = BlockIndex(0) * kTokens;
    const int row = ThreadIndex() % kPanelRows;
    const int64_t cols = task.args.weight.cols, t = first_token + ThreadIndex() / kPanelRows;
    const Global<const uint32_t> panel = task.Panel(panel_index);
    float y = 0.0f;  // threads below kTokens · 16: of token t and this row
    for (int64_t round = 0; round < task.slices; round += kSlicesAtOnce) {
      const int64_t begin = (round + ThreadIndex() / kPanelRows) * kSliceCols;
      const int64_t end = begin + kSliceCols < cols ? begin + kSliceCols : cols;
      for (int n = 0; n < kTokens; ++n) {
        if (first_token + n >= task.tokens) continue;
        const Global<float> x = RowOf(task.args.x, first_token + n);
        float sum = 0.0f;
        for (int64_t k = begin; k < end; ++k) {
          sum = Fma(x.Load(k), FloatOf(panel.Load(k * kPanelRows + row)), sum);
        }
        sums.Store(n * kThreads + ThreadIndex(), sum);
      }
      Barrier();
      if (ThreadIndex() < kTokens * kPanelRows && t < task.tokens) {
        for (int64_t s = 0; s < kSlicesAtOnce && round + s < task.slices; ++s) {
          const float sum = sums.Load(ThreadIndex() / kPanelRows * kThreads + s * kPanelRows + row);
          y = round + s == 0 ? sum : y + sum;
        }
      }
      Barrier();
    }
    const int64_t out_row = panel_index * kPanelRows + row;
    if (ThreadIndex() < kTokens * kPanelRows && t < task.tokens &&
        out_row < task.args.weight.rows) {
      task.Finish(t, out_row, y);
    }
  }
};

template <template <int> typename Slice>
void LaunchByTokens(const LinearTask& task, int64_t panels, Stream stream) {
  if (task.tokens <= 8) {
    Launch(stream, {1, panels}, LinearKernel<Slice, 1>{task});
  } else if (task.tokens <= 16) {
    Launch(stream, {1, panels}, LinearKernel<Slice, 2>{task});
  } else {
    Launch(stream, {CeilDiv(task.tokens, 32), panels}, LinearKernel<Slice, 4>{task});
  }
}

}  // namespace

void RunLinear(const Linear& args, Stream stream) {
  const PackedFormat format = args.weight.format;
  LinearTask task;
  task.args = args;
  task.tokens = format.integer() ? args.quantized.rows : args.x.rows;
  task.panel_bytes = static_cast<int64_t>(PanelBytes(format, args.weight.cols));
  task.tile_offset = static_cast<int64_t>(TileOffset(format, args.weight.cols));
  task.padded_cols = CeilDiv(args.weight.cols, kTileCols) * kTileCols;
  task.slices = CeilDiv(args.weight.cols, kSliceCols);
  const int64_t panels = CeilDiv(args.weight.rows, kPanelRows);
  if (task.tokens == 0 || panels == 0) return;
  if (format.integer() && task.tokens >= kLargeTokens) {
    RunLargeIntegerLinear(task, panels, stream);
  } else if (format.integer()) {
    LaunchByTokens<IntegerSlice>(task, panels, stream);
  } else if (format.dtype == DType::kF32) {
    Launch(stream, {CeilDiv(task.tokens, FloatLinearKernel::kTokens), panels},
           FloatLinearKernel{task});
  } else {
    LaunchByTokens<HalfSlice>(task, panels, stream);
  }
}

}  // namespace qianyi::cuda::QIANYI_FLAVOUR
