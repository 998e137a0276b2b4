#include <algorithm>

#include "kernels/cpu/drivers.h"

namespace qianyi::cpu {
namespace {

// A token's work is cut so that one token of one adapter is still work for several workers.
constexpr int64_t kRanks = 8;
constexpr int64_t kPieceRows = 1024;

int64_t Ceil(int64_t value, int64_t divisor) { return (value + divisor - 1) / divisor; }

// Calls work(item, index of the token in it, piece) for every piece of every token of all items.
template <typename Pieces, typename Work>
void ForEachPiece(const Lora& args, ThreadPool& pool, const Pieces& pieces, const Work& work) {
  int64_t total = 0;
  for (int64_t i = 0; i < args.count; ++i) {
    total += args.items[i].count * pieces(args.items[i].weights);
  }
  pool.Run(total, 1, [&](int64_t begin, int64_t end, int) {
    const LoraItem* item = args.items;
    int64_t first = 0;  // task of this item
    for (int64_t task = begin; task < end; ++task) {
      int64_t count = pieces(item->weights);
      while (task - first >= item->count * count) {
        first += item->count * count;
        count = pieces((++item)->weights);
      }
      work(*item, (task - first) / count, (task - first) % count);
    }
  });
}

}  // namespace

void RunLora(const Lora& args, ThreadPool& pool, const RowKernels& kernels) {
  ForEachPiece(
      args, pool, [](const LoraWeights& w) { return Ceil(w.rank, kRanks); },
      [&](const LoraItem& item, int64_t index, int64_t piece) {
        const LoraWeights& w = item.weights;
        const int64_t first = piece * kRanks;
        kernels.lora_down(args.x.f32(item.tokens[index]), w.a + first * args.x.cols, args.x.cols,
                          std::min(kRanks, w.rank - first), item.down + index * w.rank + first);
      });
  ForEachPiece(
      args, pool, [](const LoraWeights& w) { return Ceil(w.rows, kPieceRows); },
      [&](const LoraItem& item, int64_t index, int64_t piece) {
        const LoraWeights& w = item.weights;
        const int64_t first = piece * kPieceRows;
        kernels.lora_up(item.down + index * w.rank, w.b + first, w.rows, w.rank, w.scale,
                        std::min(kPieceRows, w.rows - first),
                        args.out.f32(item.tokens[index]) + w.row_begin + first);
      });
}

}  // namespace qianyi::cpu
