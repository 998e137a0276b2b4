// Kernels that move whole rows.
#include <cstring>

#include "kernels/cpu/drivers.h"

namespace qianyi::cpu {

void RunGather(const Gather& args, ThreadPool& pool) {
  pool.Run(args.count, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      UnpackRow(args.table, args.source_rows[i], args.out.f32(args.targets[i]));
    }
  });
}

void RunAddRows(const AddRows& args, ThreadPool& pool, const RowKernels& kernels) {
  pool.Run(args.x.rows, 8, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t row = args.ids == nullptr ? t : args.ids[t];
      if (row >= 0) kernels.add(args.table.f32(row), args.x.cols, args.x.f32(t));
    }
  });
}

void RunCopyRows(const CopyRows& args, ThreadPool& pool) {
  pool.Run(args.out.rows, 8, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = args.ids == nullptr ? i : args.ids[i];
      std::memcpy(args.out.f32(i), args.x.f32(row), args.out.cols * sizeof(float));
    }
  });
}

}  // namespace qianyi::cpu
