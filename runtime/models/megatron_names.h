// A layer in Megatron-LM's names, which GLM, GLM-130B, ChatGLM-6B and CogView keep: one matrix of
// queries, keys and values, and biases everywhere.
#pragma once

#include <cstdint>
#include <string>

#include "runtime/models/tensor_lister.h"
#include "runtime/storage/model_file.h"

namespace qianyi {

// "transformer.layers.LAYER.NAME".
std::string MegatronTensor(int64_t layer, const char* name);

// Input norm, query_key_value and dense, and the names adapters have for their parts. Checkpoints
// have query_key_value's rows by head where `head_dim` is given (TensorSpec::by_head).
void ListMegatronAttention(int64_t layer, int64_t hidden, TensorLister& list, int64_t head_dim = 0);
// Norm and the matrices up, of `up_rows`, and down.
void ListMegatronMlp(int64_t layer, int64_t hidden, int64_t up_rows, int64_t inner,
                     TensorLister& list);

struct MegatronLayer {
  LayerNormWeights input_norm;
  Projection qkv, dense;
  LayerNormWeights mlp_norm;
  Projection up, down;
};
MegatronLayer FindMegatronLayer(const ModelFile& file, int64_t layer);

}  // namespace qianyi
