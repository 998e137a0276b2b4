#include "kernels/cuda/device_rows.h"
#include "kernels/cuda/kernels.h"

namespace qianyi::cuda::QIANYI_FLAVOUR {
namespace {

// A thread per pair: block (t, j) has pairs 128 j and on of all heads of token t.
struct RopeKernel {
  static constexpr int kThreads = 128;
  Rope args;

  QIANYI_DEVICE void operator()() const {
    const int64_t t = BlockIndex(0), index = BlockIndex(1) * kThreads + ThreadIndex();
    const int64_t pairs = args.rotary_dims / 2;
    if (index >= args.heads * pairs) return;
    const int64_t i = index % pairs;
    const bool interleaved = args.pairs == RopePairs::kInterleaved;
    const Global<const float> cos_sin(args.cos_sin + t * args.rotary_dims, args.rotary_dims);
    const Global<float> x = RowOf(args.x, t);
    const int64_t head = index / pairs * args.head_dim + args.rotary_begin;
    const int64_t at = head + (interleaved ? 2 * i : i);
    const int64_t other = at + (interleaved ? 1 : pairs);
    const float a = x.Load(at), b = x.Load(other);
    const float c = cos_sin.Load(2 * i), s = cos_sin.Load(2 * i + 1);
    x.Store(at, Fma(a, c, -(b * s)));
    x.Store(other, Fma(b, c, a * s));
  }
};

}  // namespace

void RunRope(const Rope& args, Stream stream) {
  Launch(stream, {args.x.rows, CeilDiv(args.heads * (args.rotary_dims / 2), RopeKernel::kThreads)},
         RopeKernel{args});
}

}  // namespace qianyi::cuda::QIANYI_FLAVOUR
