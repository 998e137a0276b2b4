#include "kernels/cuda/device_rows.h"
#include "kernels/cuda/kernels.h"

namespace qianyi::cuda::QIANYI_FLAVOUR {
namespace {

// How many blocks share the tokens of an item, and how many its ranks or rows. They stride, since
// what an item has is known on the device only.
constexpr int64_t kTokenBlocks = 32;
constexpr int64_t kPieceBlocks = 16;

QIANYI_DEVICE LoraItem ItemOf(const Lora& args, int64_t index) {
  return Global<const LoraItem>(args.items, args.count).Load(index);
}

// A warp per element of `down`: lane i sums columns i, i + 32, … in order; then the tree.
struct LoraDownKernel {
  static constexpr int kThreads = 128;
  Lora args;

  QIANYI_DEVICE void operator()() const {
    const LoraItem item = ItemOf(args, BlockIndex(2));
    const LoraWeights& w = item.weights;
    const Global<const int32_t> tokens(item.tokens, item.count);
    const Global<const float> a(w.a, w.rank * args.x.cols);
    const Global<float> down(item.down, item.count * w.rank);
    for (int64_t i = BlockIndex(0); i < item.count; i += kTokenBlocks) {
      const Global<float> x = RowOf(args.x, tokens.Load(i));
      for (int64_t j = BlockIndex(1) * (kThreads / 32) + Warp(); j < w.rank;
           j += kPieceBlocks * (kThreads / 32)) {
        float sum = 0.0f;
        for (int64_t k = Lane(); k < args.x.cols; k += 32) {
          sum = Fma(a.Load(j * args.x.cols + k), x.Load(k), sum);
        }
        sum = WarpSum(sum);
        if (Lane() == 0) down.Store(i * w.rank + j, sum);
      }
    }
  }
};

struct LoraUpKernel {
  static constexpr int kThreads = 128;
  Lora args;

  QIANYI_DEVICE void operator()() const {
    const LoraItem item = ItemOf(args, BlockIndex(2));
    const LoraWeights& w = item.weights;
    const Global<const int32_t> tokens(item.tokens, item.count);
    const Global<const float> b(w.b, w.rank * w.rows);
    const Global<const float> down(item.down, item.count * w.rank);
    for (int64_t i = BlockIndex(0); i < item.count; i += kTokenBlocks) {
      const Global<float> out = RowOf(args.out, tokens.Load(i));
      for (int64_t row = BlockIndex(1) * kThreads + ThreadIndex(); row < w.rows;
           row += kPieceBlocks * kThreads) {
        float sum = 0.0f;
        for (int64_t j = 0; j < w.rank; ++j) {
          sum = Fma(down.Load(i * w.rank + j), b.Load(j * w.rows + row), sum);
        }
        out.Store(w.row_begin + row, Fma(w.scale, sum, out.Load(w.row_begin + row)));
      }
    }
  }
};

}  // namespace

void RunLora(const Lora& args, Stream stream) {
  if (args.count == 0) return;
  const Grid grid{kTokenBlocks, kPieceBlocks, args.count};
  Launch(stream, grid, LoraDownKernel{args});
  Launch(stream, grid, LoraUpKernel{args});
}

}  // namespace qianyi::cuda::QIANYI_FLAVOUR
