// Kernels that move whole rows.
#include "kernels/cuda/device_rows.h"
#include "kernels/cuda/kernels.h"

namespace qianyi::cuda::QIANYI_FLAVOUR {
namespace {

// Block (i, j) has columns 256 j and on of row i.
struct AddRowsKernel {
  static constexpr int kThreads = 256;
  AddRows args;

  QIANYI_DEVICE void operator()() const {
    const int64_t t = BlockIndex(0), c = BlockIndex(1) * kThreads + ThreadIndex();
    const int64_t id =
        args.ids == nullptr ? t : Global<const int32_t>(args.ids, args.x.rows).Load(t);
    if (id < 0 || c >= args.x.cols) return;
    const Global<float> x = RowOf(args.x, t);
    x.Store(c, x.Load(c) + RowOf(args.table, id).Load(c));
  }
};

struct CopyRowsKernel {
  static constexpr int kThreads = 256;
  CopyRows args;

  QIANYI_DEVICE void operator()() const {
    const int64_t i = BlockIndex(0), c = BlockIndex(1) * kThreads + ThreadIndex();
    if (c >= args.out.cols) return;
    const int64_t id =
        args.ids == nullptr ? i : Global<const int32_t>(args.ids, args.out.rows).Load(i);
    RowOf(args.out, i).Store(c, RowOf(args.x, id).Load(c));
  }
};

}  // namespace

void RunAddRows(const AddRows& args, Stream stream) {
  Launch(stream, {args.x.rows, CeilDiv(args.x.cols, AddRowsKernel::kThreads)}, AddRowsKernel{args});
}

void RunCopyRows(const CopyRows& args, Stream stream) {
  Launch(stream, {args.out.rows, CeilDiv(args.out.cols, CopyRowsKernel::kThreads)},
         CopyRowsKernel{args});
}

}  // namespace qianyi::cuda::QIANYI_FLAVOUR
