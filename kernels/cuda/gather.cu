#include "kernels/cuda/device_rows.h"
#include "kernels/cuda/kernels.h"

namespace qianyi::cuda::QIANYI_FLAVOUR {
namespace {

// kernels/packed.h has the layout.
struct GatherKernel {
  static constexpr int kThreads = 256;
  Gather args;
  int64_t panel_bytes, tile_offset;

  QIANYI_DEVICE void operator()() const {
    const int64_t i = BlockIndex(0), c = BlockIndex(1) * kThreads + ThreadIndex();
    if (c >= args.table.cols) return;
    const int32_t row = Global<const int32_t>(args.source_rows, args.count).Load(i);
    const int32_t target = Global<const int32_t>(args.targets, args.count).Load(i);
    RowOf(args.out, target).Store(c, Value(row / kPanelRows, row % kPanelRows, c));
  }

  QIANYI_DEVICE float Value(int64_t panel, int64_t row, int64_t c) const {
    const std::byte* data = args.table.data + panel * panel_bytes;
    const DType dtype = args.table.format.dtype;
    if (dtype == DType::kF32) {
      return Global<const float>(reinterpret_cast<const float*>(data), panel_bytes / 4)
          .Load(c * kPanelRows + row);
    }
    if (dtype == DType::kF16 || dtype == DType::kBF16) {
      const Global<const uint16_t> halves(reinterpret_cast<const uint16_t*>(data), panel_bytes / 2);
      const uint16_t bits = halves.Load((c / 2 * kPanelRows + row) * 2 + c % 2);
      return dtype == DType::kF16 ? FloatOfHalf(bits) : FloatOf(uint32_t{bits} << 16);
    }
    const Global<const int8_t> bytes(reinterpret_cast<const int8_t*>(data), panel_bytes);
    const float scale = bytes.LoadAs<float>(row * 4);
    if (dtype == DType::kI8) {
      const int64_t at = c / kTileCols * 1024 + c % kTileCols / 4 * 64 + row * 4 + c % 4;
      return static_cast<float>(bytes.Load(tile_offset + at)) * scale;
    }
    const int64_t at = c / kTileCols * 512 + c % 32 / 4 * 64 + row * 4 + c % 4;
    const int byte = static_cast<uint8_t>(bytes.Load(tile_offset + at));
    int weight = (c % kTileCols < 32 ? byte & 15 : byte >> 4) - 8;
    const int group = args.table.format.group;
    if (group > 0) weight *= bytes.Load(64 + c / group * kPanelRows + row);
    return static_cast<float>(weight) * scale;
  }
};

}  // namespace

void RunGather(const Gather& args, Stream stream) {
  const PackedFormat format = args.table.format;
  Launch(stream, {args.count, CeilDiv(args.table.cols, GatherKernel::kThreads)},
         GatherKernel{args, static_cast<int64_t>(PanelBytes(format, args.table.cols)),
                      static_cast<int64_t>(TileOffset(format, args.table.cols))});
}

}  // namespace qianyi::cuda::QIANYI_FLAVOUR
