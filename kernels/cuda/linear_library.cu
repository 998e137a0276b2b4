// Large batches by cuBLASLt, for --numerics fast: weights and activations become rows of bf16, some
// rows of weights at a time, and the library multiplies these. bf16 has the range of f32, so what
// overflows f16 does not overflow here. Products it cannot make, and few tokens, are linear.cu's:
// writing the weights out and reading them again takes up to nine times the bytes of int4, which
// only a product bound by arithmetic hides.
#include <atomic>

#include "kernels/cuda/enqueue_product.h"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/linear_task.h"

namespace qianyi::cuda::QIANYI_FLAVOUR {
namespace {

std::atomic<int64_t> library_tokens = 128;

// Block (p, t) writes tile t, of 64 columns, of panel p.
struct UnpackWeightsKernel {
  static constexpr int kThreads = 256;
  static constexpr int kStride = kTileCols + 4;  // of a row: lanes read from banks of their own
  LinearTask task;
  uint16_t* out;  // [panels * 16, padded_cols]

  QIANYI_DEVICE void operator()() const {
    QIANYI_SHARED(uint16_t, values, kPanelRows * kStride);
    const Global<const uint32_t> panel = task.Panel(BlockIndex(0));
    if (task.args.weight.format.dtype == DType::kI8) {
      UnpackInt8(panel, values);
    } else if (task.args.weight.format.dtype == DType::kI4) {
      UnpackInt4(panel, values);
    } else {
      UnpackHalf(panel, values);
    }
    Barrier();
    const int row = ThreadIndex() / 16, col = ThreadIndex() % 16 * 4;
    const Global<uint16_t> to(out + (BlockIndex(0) * kPanelRows + row) * task.padded_cols,
                              task.padded_cols);
    to.StoreAs(BlockIndex(1) * kTileCols + col,
               values.template LoadAs<Words2>(row * kStride + col));
  }

  QIANYI_DEVICE void UnpackInt8(const Global<const uint32_t>& panel,
                                const Shared<uint16_t>& values) const {
    const int quad = ThreadIndex() / kPanelRows, row = ThreadIndex() % kPanelRows;
    const uint32_t word =
        panel.LoadOnce<uint32_t>(task.tile_offset / 4 + BlockIndex(1) * 256 + ThreadIndex());
    const float scale = FloatOf(panel.Load(row));
    for (int i = 0; i < 4; ++i) {
      const int8_t value = static_cast<int8_t>(word >> 8 * i);
      Store(values, row, quad * 4 + i, static_cast<float>(value) * scale);
    }
  }

  QIANYI_DEVICE void UnpackInt4(const Global<const uint32_t>& panel,
                                const Shared<uint16_t>& values) const {
    if (ThreadIndex() >= 128) return;
    const int quad = ThreadIndex() / kPanelRows, row = ThreadIndex() % kPanelRows;
    const uint32_t word =
        panel.LoadOnce<uint32_t>(task.tile_offset / 4 + BlockIndex(1) * 128 + ThreadIndex());
    const float scale = FloatOf(panel.Load(row));
    for (int half = 0; half < 2; ++half) {
      const float group_scale = static_cast<float>(GroupScale(panel, row, half)) * scale;
      for (int i = 0; i < 4; ++i) {
        const int value = static_cast<int>(word >> (8 * i + 4 * half) & 15u) - 8;
        Store(values, row, half * 32 + quad * 4 + i, static_cast<float>(value) * group_scale);
      }
    }
  }

  QIANYI_DEVICE int GroupScale(const Global<const uint32_t>& panel, int row, int half) const {
    const int group = task.args.weight.format.group;
    if (group == 0) return 1;
    const int64_t at = (BlockIndex(1) * kTileCols + half * 32) / group * kPanelRows + row;
    return static_cast<int8_t>(panel.Load(16 + at / 4) >> at % 4 * 8);  // behind the row scales
  }

  QIANYI_DEVICE void UnpackHalf(const Global<const uint32_t>& panel,
                                const Shared<uint16_t>& values) const {
    const int64_t words = (task.args.weight.cols + 1) / 2 * kPanelRows;
    const bool bfloat = task.args.weight.format.dtype == DType::kBF16;
    for (int i = ThreadIndex(); i < kTileCols / 2 * kPanelRows; i += kThreads) {
      const int64_t at = BlockIndex(1) * (kTileCols / 2 * kPanelRows) + i;
      const uint32_t word = at < words ? panel.LoadOnce<uint32_t>(at) : 0;
      const int row = i % kPanelRows, col = i / kPanelRows * 2;
      for (int k = 0; k < 2; ++k) {
        const uint16_t bits = static_cast<uint16_t>(word >> 16 * k);
        if (bfloat) {
          values.Store(row * kStride + col + k, bits);
        } else {
          Store(values, row, col + k, FloatOfHalf(bits));
        }
      }
    }
  }

  QIANYI_DEVICE static void Store(const Shared<uint16_t>& values, int row, int col, float value) {
    values.Store(row * kStride + col, BFloatOfFloat(value).bits);
  }
};

// Block (t, s) writes columns 512 s and on of token t.
struct UnpackTokensKernel {
  static constexpr int kThreads = kSliceCols / 2;
  LinearTask task;
  bool integer;
  uint16_t* out;  // [tokens, padded_cols]

  QIANYI_DEVICE void operator()() const {
    const int64_t t = BlockIndex(0), slice = BlockIndex(1);
    const int64_t col = slice * kSliceCols + 2 * ThreadIndex();
    if (col >= task.padded_cols) return;
    const uint32_t low = BFloatOfFloat(Value(t, slice, col)).bits;
    const uint32_t high = BFloatOfFloat(Value(t, slice, col + 1)).bits;
    Global<uint16_t>(out + t * task.padded_cols, task.padded_cols).StoreAs(col, low | high << 16);
  }

  QIANYI_DEVICE float Value(int64_t t, int64_t slice, int64_t col) const {
    const Linear& args = task.args;
    if (!integer) {
      return col < args.weight.cols ? RowOf(args.x, t).Load(col) : 0.0f;
    }
    const Global<const int8_t> values(args.quantized.values + t * task.padded_cols,
                                      task.padded_cols);
    const Global<const float> scales(args.quantized.scales + t * task.slices, task.slices);
    return static_cast<float>(values.Load(col)) * scales.Load(slice);
  }
};

// Rows [row, row + rows) of tokens [token, token + tokens).
Linear Part(const Linear& args, int64_t token, int64_t tokens, int64_t row, int64_t rows) {
  Linear part = args;
  part.weight.data += row / kPanelRows * PanelBytes(args.weight.format, args.weight.cols);
  part.weight.rows = rows;
  if (args.bias != nullptr) part.bias += row;
  if (args.residual.data != nullptr) part.residual = args.residual.Slice(token, tokens, row, rows);
  part.out = args.out.Slice(token, tokens, row, rows);
  if (args.weight.format.integer()) {
    part.quantized.rows = tokens;
    part.quantized.values += token * args.quantized.padded_cols();
    part.quantized.scales += token * args.quantized.slices();
    part.quantized.sums += token * (args.quantized.padded_cols() / 32);
  } else {
    part.x = args.x.Rows(token, tokens);
  }
  return part;
}

LibraryProduct ProductOf(const LinearTask& task, const LibraryRoom& room) {
  const Linear& args = task.args;
  return {.rows = args.weight.rows,
          .tokens = task.tokens,
          .cols = task.padded_cols,
          .weights = room.weights,
          .x = room.x,
          .bias = args.bias,
          .residual = static_cast<const float*>(args.residual.data),
          .residual_stride = args.residual.stride,
          .residual_scale = args.residual_scale,
          .out = static_cast<float*>(args.out.data),
          .out_stride = args.out.stride};
}

bool TakesBFloats(const Linear& args) {
  return args.weight.format.dtype != DType::kF32 && TaskOf(args).tokens >= library_tokens;
}

}  // namespace

void UseLibraryFrom(int64_t tokens) { library_tokens = tokens; }

void RunLibraryLinear(const Linear& args, Stream stream) {
  const LibraryRoom& room = static_cast<DeviceStream*>(stream.handle)->library;
  if (!room.ready() || !TakesBFloats(args)) return RunLinear(args, stream);
  const LinearTask task = TaskOf(args);
  const int64_t most = static_cast<int64_t>(room.rows_bytes) / 2 / task.padded_cols;
  const int64_t most_rows = most / kPanelRows * kPanelRows;
  if (most_rows == 0) return RunLinear(args, stream);
  for (int64_t token = 0; token < task.tokens; token += most) {
    const int64_t tokens = task.tokens - token < most ? task.tokens - token : most;
    bool has_x = false;
    for (int64_t row = 0; row < args.weight.rows; row += most_rows) {
      const int64_t left = args.weight.rows - row, rows = left < most_rows ? left : most_rows;
      const Linear part = Part(args, token, tokens, row, rows);
      const LinearTask part_task = TaskOf(part);
      const LibraryProduct product = ProductOf(part_task, room);
      if (!room.CanMultiply(product)) {
        RunLinear(part, stream);
        continue;
      }
      if (!has_x) {
        Launch(stream, {tokens, task.slices},
               UnpackTokensKernel{part_task, args.weight.format.integer(),
                                  static_cast<uint16_t*>(room.x)});
        has_x = true;
      }
      Launch(stream, {CeilDiv(rows, kPanelRows), task.padded_cols / kTileCols},
             UnpackWeightsKernel{part_task, static_cast<uint16_t*>(room.weights)});
      if (!Enqueue(stream, product)) RunLinear(part, stream);
    }
  }
}

}  // namespace qianyi::cuda::QIANYI_FLAVOUR
