#include "kernels/cuda/device_rows.h"
#include "kernels/cuda/kernels.h"

namespace qianyi::cuda::QIANYI_FLAVOUR {
namespace {

// Block (i, j) has columns 256 j and on of the window of place i.
struct UnfoldKernel {
  static constexpr int kThreads = 256;
  Unfold args;

  QIANYI_DEVICE void operator()() const {
    const int64_t i = BlockIndex(0), c = BlockIndex(1) * kThreads + ThreadIndex();
    if (c >= args.out.cols) return;
    const int64_t channels = args.picture.cols, pixel = c / channels;
    const int64_t y =
        (args.first_row + i / args.out_width) * args.stride + args.offset_y + pixel / args.window;
    const int64_t x = i % args.out_width * args.stride + args.offset_x + pixel % args.window;
    const bool inside = y >= 0 && y < args.height && x >= 0 && x < args.width;
    const float value = inside ? RowOf(args.picture, y * args.width + x).Load(c % channels) : 0.0f;
    RowOf(args.out, i).Store(c, value);
  }
};

}  // namespace

void RunUnfold(const Unfold& args, Stream stream) {
  Launch(stream, {args.out.rows, CeilDiv(args.out.cols, UnfoldKernel::kThreads)},
         UnfoldKernel{args});
}

}  // namespace qianyi::cuda::QIANYI_FLAVOUR
