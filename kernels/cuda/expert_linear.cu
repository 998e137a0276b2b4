// Experts on the device, of which the host never learns who was chosen: choices are sorted by
// expert there, and blocks find their expert in the list of tiles that this leaves.
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/linear_blocks.h"

namespace qianyi::cuda::QIANYI_FLAVOUR {
namespace {

// One block; a thread counts and then places the choices of its experts, in order.
struct GroupKernel {
  static constexpr int kThreads = 256;
  GroupChoices args;
  int64_t tile_count;

  QIANYI_DEVICE void operator()() const {
    QIANYI_SHARED(int32_t, begin, kMostGroupedExperts + 1);
    QIANYI_SHARED(int32_t, first_tile, kMostGroupedExperts + 1);
    const int64_t choices = args.tokens * args.top_k;
    const Global<const int32_t> chosen(args.chosen, choices);
    for (int64_t e = ThreadIndex(); e < args.experts; e += kThreads) {
      int32_t count = 0;
      for (int64_t i = 0; i < choices; ++i) count += chosen.Load(i) == e ? 1 : 0;
      begin.Store(e + 1, count);
    }
    Barrier();
    if (ThreadIndex() == 0) {
      begin.Store(0, 0);
      first_tile.Store(0, 0);
      for (int64_t e = 0; e < args.experts; ++e) {
        const int32_t count = begin.Load(e + 1);
        begin.Store(e + 1, begin.Load(e) + count);
        first_tile.Store(e + 1, first_tile.Load(e) + static_cast<int32_t>(TilesOf(count)));
      }
    }
    Barrier();
    const Global<ExpertTile> tiles(args.tiles, tile_count);
    for (int64_t e = ThreadIndex(); e < args.experts; e += kThreads) {
      Place(chosen, static_cast<int32_t>(e), begin.Load(e));
      const int32_t end = begin.Load(e + 1);
      int32_t row = begin.Load(e);
      for (int32_t tile = first_tile.Load(e); row < end; ++tile) {
        const int32_t next = row + static_cast<int32_t>(args.tile_rows);
        tiles.Store(tile, {static_cast<int32_t>(e), row, next < end ? next : end});
        row = next;
      }
    }
    const int64_t used = first_tile.Load(args.experts);
    for (int64_t i = used + ThreadIndex(); i < tile_count; i += kThreads)
      tiles.Store(i, {-1, 0, 0});
  }

  QIANYI_DEVICE int64_t TilesOf(int64_t rows) const {
    return (rows + args.tile_rows - 1) / args.tile_rows;
  }

  QIANYI_DEVICE void Place(const Global<const int32_t>& chosen, int32_t expert, int32_t at) const {
    const int64_t choices = args.tokens * args.top_k;
    const Global<int32_t> row_tokens(args.row_tokens, choices), places(args.places, choices);
    for (int64_t i = 0; i < choices; ++i) {
      if (chosen.Load(i) != expert) continue;
      row_tokens.Store(at, static_cast<int32_t>(i / args.top_k));
      places.Store(i, at++);
    }
  }
};

struct ExpertTask {
  LinearTask linear;  // all but its weights
  const ExpertTile* tiles;
  int64_t tile_count;
  const std::byte* const* weights;
  int64_t weight_count, stride;
  const int32_t* x_rows;

  // Of block (i, j), which has panel j and tile i; with begin == end where there is none.
  QIANYI_DEVICE RowTile Tile() const {
    const ExpertTile tile = Global<const ExpertTile>(tiles, tile_count).Load(BlockIndex(0));
    if (tile.expert < 0) return {nullptr, 0, 0, nullptr, 0};
    const Global<const std::byte* const> all(weights, weight_count);
    return {all.Load(tile.expert * stride), tile.begin, tile.end, x_rows, linear.args.out.rows};
  }
};

template <template <int> typename Slice, int kTokenTiles>
struct ExpertKernel {
  using Block = LinearBlock<Slice, kTokenTiles>;
  static constexpr int kThreads = Block::kThreads;
  ExpertTask task;

  QIANYI_DEVICE void operator()() const {
    const RowTile tile = task.Tile();
    if (tile.begin < tile.end) Block{task.linear, tile}.Run(BlockIndex(1));
  }
};

struct FloatExpertKernel {
  static constexpr int kThreads = FloatLinearBlock::kThreads;
  ExpertTask task;

  QIANYI_DEVICE void operator()() const {
    const RowTile all = task.Tile();
    RowTile tile = all;
    for (; tile.begin < all.end; tile.begin += FloatLinearBlock::kTokens) {
      tile.end = tile.begin + FloatLinearBlock::kTokens;
      if (tile.end > all.end) tile.end = all.end;
      FloatLinearBlock{task.linear, tile}.Run(BlockIndex(1));
    }
  }
};

template <template <int> typename Slice>
void LaunchByTileRows(const ExpertTask& task, Grid grid, int64_t tile_rows, Stream stream) {
  if (tile_rows <= 8) {
    Launch(stream, grid, ExpertKernel<Slice, 1>{task});
  } else if (tile_rows <= 16) {
    Launch(stream, grid, ExpertKernel<Slice, 2>{task});
  } else {
    Launch(stream, grid, ExpertKernel<Slice, 4>{task});
  }
}

}  // namespace

void RunGroupChoices(const GroupChoices& args, Stream stream) {
  if (args.tokens == 0) return;
  Launch(stream, {1},
         GroupKernel{args, ExpertTiles(args.tokens * args.top_k, args.experts, args.tile_rows)});
}

void RunExpertLinear(const ExpertLinear& args, Stream stream) {
  if (args.out.rows == 0) return;
  ExpertTask task;
  Linear like;
  like.x = args.x;
  like.quantized = args.quantized;
  like.weight = {nullptr, args.format, args.rows, args.cols};
  like.out = args.out;
  task.linear = TaskOf(like);
  task.tiles = args.tiles;
  task.tile_count = ExpertTiles(args.out.rows, args.experts, args.tile_rows);
  task.weights = args.weights;
  task.weight_count = (args.experts - 1) * args.stride + 1;
  task.stride = args.stride;
  task.x_rows = args.x_rows;
  const Grid grid{task.tile_count, CeilDiv(args.rows, kPanelRows)};
  if (args.format.integer()) {
    LaunchByTileRows<IntegerSlice>(task, grid, args.tile_rows, stream);
  } else if (args.format.dtype == DType::kF32) {
    Launch(stream, grid, FloatExpertKernel{task});
  } else {
    LaunchByTileRows<HalfSlice>(task, grid, args.tile_rows, stream);
  }
}

}  // namespace qianyi::cuda::QIANYI_FLAVOUR
