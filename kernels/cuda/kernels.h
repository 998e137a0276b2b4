// The kernels of the CUDA table, one file each. They check nothing, and pointers in their
// arguments are the device's, those inside structs and arrays included.
#pragma once

#include "kernels/cuda/device.h"

namespace qianyi::cuda::QIANYI_FLAVOUR {

inline constexpr int kMaxHeadDim = 2048;  // of attention

void RunQuantize(const Quantize& args, Stream stream);
void RunLinear(const Linear& args, Stream stream);
// By cuBLASLt from so many tokens on, where the stream has it; else the same as RunLinear.
void RunLibraryLinear(const Linear& args, Stream stream);
void UseLibraryFrom(int64_t tokens);
void RunGather(const Gather& args, Stream stream);
void RunAddRows(const AddRows& args, Stream stream);
void RunCopyRows(const CopyRows& args, Stream stream);
void RunLayerNorm(const LayerNorm& args, Stream stream);
void RunRmsNorm(const RmsNorm& args, Stream stream);
void RunRope(const Rope& args, Stream stream);
void RunActivate(const Activate& args, Stream stream);
void RunGatedActivate(const GatedActivate& args, Stream stream);
void RunKvWrite(const KvWrite& args, Stream stream);
void RunAttention(const Attention& args, Stream stream);
void RunLora(const Lora& args, Stream stream);
void RunRoute(const Route& args, Stream stream);
void RunCombine(const Combine& args, Stream stream);
void RunGroupChoices(const GroupChoices& args, Stream stream);
void RunExpertLinear(const ExpertLinear& args, Stream stream);
void RunUnfold(const Unfold& args, Stream stream);
void RunSparseAttention(const SparseAttention& args, Stream stream);
void RunDrawTokens(const DrawTokens& args, Stream stream);

}  // namespace qianyi::cuda::QIANYI_FLAVOUR
