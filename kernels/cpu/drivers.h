// The kernels of a CPU backend: checks nothing, cuts the work over the stream's workers
// and calls the row kernels of one instruction set.
#pragma once

#include "kernels/backend.h"
#include "kernels/cpu/row_kernels.h"
#include "kernels/cpu/thread_pool.h"

namespace qianyi::cpu {

void RunQuantize(const Quantize& args, ThreadPool& pool, const RowKernels& kernels);
void RunLinear(const Linear& args, ThreadPool& pool, LinearFunction linear);
void RunGather(const Gather& args, ThreadPool& pool);
void RunAddRows(const AddRows& args, ThreadPool& pool, const RowKernels& kernels);
void RunCopyRows(const CopyRows& args, ThreadPool& pool);
void RunLayerNorm(const LayerNorm& args, ThreadPool& pool, const RowKernels& kernels);
void RunRmsNorm(const RmsNorm& args, ThreadPool& pool, const RowKernels& kernels);
void RunRope(const Rope& args, ThreadPool& pool, const RowKernels& kernels);
void RunActivate(const Activate& args, ThreadPool& pool, const RowKernels& kernels);
void RunGatedActivate(const GatedActivate& args, ThreadPool& pool, const RowKernels& kernels);
void RunKvWrite(const KvWrite& args, ThreadPool& pool, const RowKernels& kernels);
void RunAttention(const Attention& args, ThreadPool& pool, const RowKernels& kernels);
void RunSparseAttention(const SparseAttention& args, ThreadPool& pool, const RowKernels& kernels);
void RunUnfold(const Unfold& args, ThreadPool& pool);
void RunLora(const Lora& args, ThreadPool& pool, const RowKernels& kernels);
void RunRoute(const Route& args, ThreadPool& pool, const RowKernels& kernels);
void RunCombine(const Combine& args, ThreadPool& pool, const RowKernels& kernels);

void* Alloc(size_t bytes);
void Free(void* data, size_t bytes);

}  // namespace qianyi::cpu
