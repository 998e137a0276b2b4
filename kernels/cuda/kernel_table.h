// Puts the CUDA kernels into a table.
#pragma once

#include "kernels/cuda/kernels.h"

namespace qianyi::cuda::QIANYI_FLAVOUR {

inline Backend KernelTable() {
  Backend b;
  b.name = "cuda";
  b.quantize = RunQuantize;
  b.linear = RunLinear;
  b.gather = RunGather;
  b.add_rows = RunAddRows;
  b.copy_rows = RunCopyRows;
  b.layer_norm = RunLayerNorm;
  b.rms_norm = RunRmsNorm;
  b.rope = RunRope;
  b.activate = RunActivate;
  b.gated_activate = RunGatedActivate;
  b.kv_write = RunKvWrite;
  b.attention = RunAttention;
  b.lora = RunLora;
  b.route = RunRoute;
  b.combine = RunCombine;
  b.unfold = RunUnfold;
  b.sparse_attention = RunSparseAttention;
  b.group_choices = RunGroupChoices;
  b.expert_linear = RunExpertLinear;
  b.draw_tokens = RunDrawTokens;
  b.supports = IsValid;
  b.max_head_dim = kMaxHeadDim;
  b.host_memory = false;
  return b;
}

}  // namespace qianyi::cuda::QIANYI_FLAVOUR
