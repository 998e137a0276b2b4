// Linear layers on tensor cores. Many tokens with integer weights: linear_large.cu.
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/linear_blocks.h"

namespace qianyi::cuda::QIANYI_FLAVOUR {
namespace {

// The tile of block (i, j), which has panel j and `tokens` rows from i · tokens on: blocks that
// read the same weights run together.
QIANYI_DEVICE inline RowTile TileOf(const LinearTask& task, int64_t tokens) {
  const int64_t begin = BlockIndex(0) * tokens;
  const int64_t end = begin + tokens < task.tokens ? begin + tokens : task.tokens;
  return {task.args.weight.data, begin, end, nullptr, 0};
}

template <template <int> typename Slice, int kTokenTiles>
struct LinearKernel {
  using Block = LinearBlock<Slice, kTokenTiles>;
  static constexpr int kThreads = Block::kThreads;
  LinearTask task;

  QIANYI_DEVICE void operator()() const {
    Block{task, TileOf(task, Block::kTokens)}.Run(BlockIndex(1));
  }
};

struct FloatLinearKernel {
  static constexpr int kThreads = FloatLinearBlock::kThreads;
  static constexpr int kTokens = FloatLinearBlock::kTokens;
  LinearTask task;

  QIANYI_DEVICE void operator()() const {
    FloatLinearBlock{task, TileOf(task, kTokens)}.Run(BlockIndex(1));
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
  const LinearTask task = TaskOf(args);
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
