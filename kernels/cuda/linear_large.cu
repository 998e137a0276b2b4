// Integer weights and many tokens: the same numbers as linear.cu, tiled for arithmetic. A block has
// 128 rows and 64 tokens, a warp 32 rows and 32 tokens of them. Activations come through shared
// memory by asynchronous copies, four tiles of 64 columns at a time; weights are fragments as they
// lie, and each is read a tile ahead.
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/linear_task.h"

namespace qianyi::cuda::QIANYI_FLAVOUR {
namespace {

constexpr int kPanels = 8, kTokens = 64;        // of a block
constexpr int kWarpPanels = 2, kWarpTiles = 4;  // of a warp: panels, and fragments of 8 tokens
constexpr int kStages = 4, kTokenBytes = 80;    // 64 and a gap: lanes read from banks of their own
constexpr int kSliceTiles = kSliceCols / kTileCols;

template <bool kInt8>
struct LargeIntegerKernel {
  static constexpr int kThreads = 256;
  static constexpr int kWords = kInt8 ? 8 : 4;  // of a lane in a tile of one panel
  LinearTask task;
  int64_t panels;

  QIANYI_DEVICE void operator()() const {
    QIANYI_SHARED(int8_t, x, kStages * kTokens * kTokenBytes);
    const int64_t first_token = BlockIndex(0) * kTokens;
    const int64_t first_panel = BlockIndex(1) * kPanels + Warp() % 4 * kWarpPanels;
    const int warp_token = Warp() / 4 * kWarpTiles * kTileTokens;
    const int64_t tiles = task.padded_cols / kTileCols;
    int32_t sum[kWarpPanels][kWarpTiles][4] = {};
    float y[kWarpPanels][kWarpTiles][4] = {};
    uint32_t next[kWarpPanels][kWords];
    for (int64_t tile = 0; tile < kStages - 1; ++tile) Fetch(x, first_token, tile, tiles);
    LoadWeights(first_panel, 0, next);
    for (int64_t tile = 0; tile < tiles; ++tile) {
      WaitForCopies<kStages - 2>();
      Barrier();  // this tile is there, and nobody reads the place of the one that is fetched now
      Fetch(x, first_token, tile + kStages - 1, tiles);
      uint32_t words[kWarpPanels][kWords];
      for (int p = 0; p < kWarpPanels; ++p) {
        for (int i = 0; i < kWords; ++i) words[p][i] = next[p][i];
      }
      if (tile + 1 < tiles) LoadWeights(first_panel, tile + 1, next);
      Multiply(x, first_panel, warp_token, tile, words, sum);
      if ((tile + 1) % kSliceTiles == 0 || tile + 1 == tiles) {
        EndSlice(first_token + warp_token, tile / kSliceTiles, sum, y);
      }
    }
    WaitForCopies<0>();
    Finish(first_panel, first_token + warp_token, y);
  }

  // 16 bytes per thread. Behind the last tile an empty group keeps the count.
  QIANYI_DEVICE void Fetch(const Shared<int8_t>& x, int64_t first_token, int64_t tile,
                           int64_t tiles) const {
    const int token = ThreadIndex() / 4, chunk = ThreadIndex() % 4 * 16;
    if (tile < tiles && first_token + token < task.tokens) {
      const Global<const int8_t> row(
          task.args.quantized.values + (first_token + token) * task.padded_cols, task.padded_cols);
      CopyAsync16(x, (tile % kStages * kTokens + token) * kTokenBytes + chunk, row,
                  tile * kTileCols + chunk);
    }
    CommitCopies();
  }

  // Panels behind the last are read as the last, and dropped.
  QIANYI_DEVICE Global<const uint32_t> Panel(int64_t panel) const {
    return task.Panel(panel < panels ? panel : panels - 1);
  }

  QIANYI_DEVICE void LoadWeights(int64_t first_panel, int64_t tile,
                                 uint32_t (&words)[kWarpPanels][kWords]) const {
    for (int p = 0; p < kWarpPanels; ++p) {
      const Global<const uint32_t> panel = Panel(first_panel + p);
      for (int half = 0; half < kWords / 4; ++half) {
        uint32_t a[4];
        LoadFragment(panel, (task.tile_offset + tile * (kWords * 128)) / 4 + half * 128, a);
        for (int i = 0; i < 4; ++i) words[p][half * 4 + i] = a[i];
      }
    }
  }

  QIANYI_DEVICE void Multiply(const Shared<int8_t>& x, int64_t first_panel, int warp_token,
                              int64_t tile, const uint32_t (&words)[kWarpPanels][kWords],
                              int32_t (&sum)[kWarpPanels][kWarpTiles][4]) const {
    for (int half = 0; half < 2; ++half) {
      uint32_t b[kWarpTiles][2];
      for (int n = 0; n < kWarpTiles; ++n) {
        const int token = warp_token + n * kTileTokens + Lane() / 4;
        const int64_t at = (tile % kStages * kTokens + token) * kTokenBytes + half * 32;
        b[n][0] = x.template LoadAs<uint32_t>(at + Lane() % 4 * 4);
        b[n][1] = x.template LoadAs<uint32_t>(at + Lane() % 4 * 4 + 16);
      }
      for (int p = 0; p < kWarpPanels; ++p) {
        uint32_t a[4];
        for (int i = 0; i < 4; ++i) {
          a[i] = kInt8 ? words[p][half * 4 % kWords + i] : SignedNibbles(words[p][i] >> 4 * half);
        }
        const int group = task.args.weight.format.group;
        if (group == 0) {
          for (int n = 0; n < kWarpTiles; ++n) MmaInt8(sum[p][n], a, b[n]);
          continue;
        }
        const GroupScales scales =
            LoadGroupScales(Panel(first_panel + p), (tile * kTileCols + half * 32) / group);
        for (int n = 0; n < kWarpTiles; ++n) {
          int32_t part[4] = {};
          MmaInt8(part, a, b[n]);
          scales.AddTo(part, sum[p][n]);
        }
      }
    }
  }

  // The token of element i of fragment n.
  QIANYI_DEVICE static int64_t TokenOf(int64_t first, int n, int i) {
    return first + n * kTileTokens + Lane() % 4 * 2 + i % 2;
  }

  QIANYI_DEVICE void EndSlice(int64_t first, int64_t slice,
                              int32_t (&sum)[kWarpPanels][kWarpTiles][4],
                              float (&y)[kWarpPanels][kWarpTiles][4]) const {
    for (int n = 0; n < kWarpTiles; ++n) {
      for (int i = 0; i < 4; ++i) {
        const int64_t token = TokenOf(first, n, i);
        float scale = 0.0f;
        if (token < task.tokens) {
          scale = Global<const float>(task.args.quantized.scales + token * task.slices, task.slices)
                      .Load(slice);
        }
        for (int p = 0; p < kWarpPanels; ++p) {
          y[p][n][i] = Fma(static_cast<float>(sum[p][n][i]), scale, y[p][n][i]);
          sum[p][n][i] = 0;
        }
      }
    }
  }

  QIANYI_DEVICE void Finish(int64_t first_panel, int64_t first,
                            const float (&y)[kWarpPanels][kWarpTiles][4]) const {
    for (int p = 0; p < kWarpPanels; ++p) {
      if (first_panel + p >= panels) continue;
      const Global<const uint32_t> panel = task.Panel(first_panel + p);
      for (int i = 0; i < 4; ++i) {
        const int in_panel = Lane() / 4 + i / 2 * 8;
        const int64_t row = (first_panel + p) * kPanelRows + in_panel;
        if (row >= task.args.weight.rows) continue;
        const float scale = FloatOf(panel.Load(in_panel));
        for (int n = 0; n < kWarpTiles; ++n) {
          const int64_t token = TokenOf(first, n, i);
          if (token < task.tokens) task.Finish(token, row, y[p][n][i] * scale);
        }
      }
    }
  }
};

}  // namespace

void RunLargeIntegerLinear(const LinearTask& task, int64_t panels, Stream stream) {
  const Grid grid{CeilDiv(task.tokens, kTokens), CeilDiv(panels, kPanels)};
  if (task.args.weight.format.dtype == DType::kI8) {
    Launch(stream, grid, LargeIntegerKernel<true>{task, panels});
  } else {
    Launch(stream, grid, LargeIntegerKernel<false>{task, panels});
  }
}

}  // namespace qianyi::cuda::QIANYI_FLAVOUR
