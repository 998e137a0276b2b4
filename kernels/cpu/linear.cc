#include <algorithm>

#include "kernels/cpu/dispatch.h"
#include "kernels/cpu/drivers.h"

namespace qianyi::cpu {
namespace {

// Panels that one worker takes at a time. With few tokens about 256 KiB of weights: long
// enough to hide the hand-over, short enough to end together. With more, four times that: each
// piece lays its activations out anew. With many tokens the groups that the instruction sets
// block for.
int64_t PanelGrain(int64_t panels, size_t panel_bytes, int64_t tokens, int threads) {
  const int64_t bytes = tokens > 4 ? 1 << 20 : 256 << 10;
  const int64_t wanted =
      tokens > 8 ? 32 : std::max<int64_t>(1, bytes / static_cast<int64_t>(panel_bytes));
  const int64_t fair = std::max<int64_t>(1, panels / (4 * threads));
  return std::min(wanted, fair);
}

}  // namespace

void RunLinear(const Linear& args, ThreadPool& pool, LinearFunction linear) {
  const PackedRows& weight = args.weight;
  const PackedFormat format = weight.format;
  LinearBlock whole{};
  if (format.integer()) {
    whole.values = args.quantized.values;
    whole.scales = args.quantized.scales;
    whole.sums = args.quantized.sums;
    whole.padded_cols = args.quantized.padded_cols();
    whole.slices = args.quantized.slices();
    whole.tokens = args.quantized.rows;
  } else {
    whole.x = args.x.f32();
    whole.x_stride = args.x.stride;
    whole.tokens = args.x.rows;
  }
  whole.panel_bytes = PanelBytes(format, weight.cols);
  whole.tile_offset = TileOffset(format, weight.cols);
  whole.dtype = format.dtype;
  whole.group = format.group;
  whole.cols = weight.cols;
  whole.prefetch = DetectFeatures().prefetch;
  whole.residual_stride = args.residual.stride;
  whole.residual_scale = args.residual_scale;
  whole.out_stride = args.out.stride;

  const int64_t panels = (weight.rows + kPanelRows - 1) / kPanelRows;
  const int64_t grain = PanelGrain(panels, whole.panel_bytes, whole.tokens, pool.threads());
  const int64_t block_panels = weight.block_rows == 0 ? panels : weight.block_rows / kPanelRows;
  pool.Run(panels, grain, [&](int64_t begin, int64_t end, int worker) {
    while (begin < end) {  // what of it lies in one block
      const int64_t index = begin / block_panels;
      const int64_t stop = std::min(end, (index + 1) * block_panels);
      const int64_t row = begin * kPanelRows;
      LinearBlock block = whole;
      const std::byte* const data = weight.block_rows == 0 ? weight.data : weight.blocks[index];
      block.panels = data + (begin - index * block_panels) * whole.panel_bytes;
      block.rows = std::min(stop * kPanelRows, weight.rows) - row;
      block.bias = args.bias == nullptr ? nullptr : args.bias + row;
      block.residual = args.residual.data == nullptr ? nullptr : args.residual.f32() + row;
      block.out = args.out.f32() + row;
      block.scratch = pool.scratch(worker);
      linear(block);
      begin = stop;
    }
  });
}

}  // namespace qianyi::cpu
