// The names under which adapters address the parts of a fused query_key_value matrix.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/model_spec.h"

namespace qianyi {

struct AttentionNames {
  std::string layer;     // before "query_key_value.weight" and "dense.weight"
  std::string sat;       // the same in SwissArmyTransformer's names
  RowRuns q, k, v;       // of query_key_value
  int64_t out_rows = 0;  // of dense
  RowRuns fused = {};    // query_key_value as checkpoints have it, where we keep other rows
};

// PEFT's q_proj, k_proj and v_proj, and SwissArmyTransformer's numbered parts.
void NameAttentionParts(const AttentionNames& names, std::vector<ModuleAlias>* aliases);

}  // namespace qianyi
