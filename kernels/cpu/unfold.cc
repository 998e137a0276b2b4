#include <cstring>

#include "kernels/cpu/drivers.h"

namespace qianyi::cpu {

void RunUnfold(const Unfold& args, ThreadPool& pool) {
  const int64_t channels = args.picture.cols;
  const size_t pixel_bytes = channels * sizeof(float);
  pool.Run(args.out.rows, 8, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t top = (args.first_row + i / args.out_width) * args.stride + args.offset_y;
      const int64_t left = i % args.out_width * args.stride + args.offset_x;
      float* out = args.out.f32(i);
      for (int64_t y = top; y < top + args.window; ++y) {
        for (int64_t x = left; x < left + args.window; ++x, out += channels) {
          if (y >= 0 && y < args.height && x >= 0 && x < args.width) {
            std::memcpy(out, args.picture.f32(y * args.width + x), pixel_bytes);
          } else {
            std::memset(out, 0, pixel_bytes);
          }
        }
      }
    }
  });
}

}  // namespace qianyi::cpu
