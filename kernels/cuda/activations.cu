#include "kernels/cuda/device_rows.h"
#include "kernels/cuda/kernels.h"

namespace qianyi::cuda::QIANYI_FLAVOUR {
namespace {

QIANYI_DEVICE float Activated(Activation kind, float x) {
  switch (kind) {
    case Activation::kGeluTanh: {  // written as x / (1 + exp(-2 …)): 0 and x far out
      const float w = Fma(x * x, 0.0713548163f, 1.5957691216f);
      return x / (1.0f + Exp(-(x * w)));
    }
    case Activation::kGeluErf: {
      const float half = 0.5f * x;
      return Fma(half, Erf(x * 0.70710678118f), half);
    }
    case Activation::kSilu:
      return x / (1.0f + Exp(-x));
    case Activation::kRelu:
      return x < 0.0f ? 0.0f : x;
    default:
      return FloatOf(0x7fc00000u);  // one that is not here shows
  }
}

struct ActivateKernel {
  static constexpr int kThreads = 256;
  Activate args;

  QIANYI_DEVICE void operator()() const {
    const int64_t t = BlockIndex(0), c = BlockIndex(1) * kThreads + ThreadIndex();
    if (c >= args.x.cols) return;
    RowOf(args.out, t).Store(c, Activated(args.kind, RowOf(args.x, t).Load(c)));
  }
};

struct GatedActivateKernel {
  static constexpr int kThreads = 256;
  GatedActivate args;

  QIANYI_DEVICE void operator()() const {
    const int64_t t = BlockIndex(0), c = BlockIndex(1) * kThreads + ThreadIndex();
    if (c >= args.gate.cols) return;
    const float gate = Activated(args.kind, RowOf(args.gate, t).Load(c));
    RowOf(args.out, t).Store(c, gate * RowOf(args.value, t).Load(c));
  }
};

}  // namespace

void RunActivate(const Activate& args, Stream stream) {
  Launch(stream, {args.x.rows, CeilDiv(args.x.cols, ActivateKernel::kThreads)},
         ActivateKernel{args});
}

void RunGatedActivate(const GatedActivate& args, Stream stream) {
  Launch(stream, {args.gate.rows, CeilDiv(args.gate.cols, GatedActivateKernel::kThreads)},
         GatedActivateKernel{args});
}

}  // namespace qianyi::cuda::QIANYI_FLAVOUR
