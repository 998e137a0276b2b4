#include "runtime/models/megatron_names.h"

#include "absl/strings/str_cat.h"
#include "runtime/models/aliases.h"

namespace qianyi {

std::string MegatronTensor(int64_t layer, const char* name) {
  return absl::StrCat("transformer.layers.", layer, ".", name);
}

void ListMegatronAttention(int64_t layer, int64_t hidden, TensorLister& list, int64_t head_dim) {
  list.LayerNorm(MegatronTensor(layer, "input_layernorm"), hidden);
  list.Linear(MegatronTensor(layer, "attention.query_key_value"), 3 * hidden, hidden,
              /*bias=*/true, head_dim);
  list.Linear(MegatronTensor(layer, "attention.dense"), hidden, hidden);
  AttentionNames names = {.layer = MegatronTensor(layer, "attention."),
                          .sat = MegatronTensor(layer, "attention."),
                          .q = {0, hidden},
                          .k = {hidden, hidden},
                          .v = {2 * hidden, hidden},
                          .out_rows = hidden};
  if (head_dim > 0) names.fused = {0, head_dim, head_dim, hidden / head_dim, 3, hidden};
  NameAttentionParts(names, &list.spec().aliases);
}

void ListMegatronMlp(int64_t layer, int64_t hidden, int64_t up_rows, int64_t inner,
                     TensorLister& list) {
  list.LayerNorm(MegatronTensor(layer, "post_attention_layernorm"), hidden);
  list.Linear(MegatronTensor(layer, "mlp.dense_h_to_4h"), up_rows, hidden);
  list.Linear(MegatronTensor(layer, "mlp.dense_4h_to_h"), hidden, inner);
}

MegatronLayer FindMegatronLayer(const ModelFile& file, int64_t layer) {
  return {.input_norm = FindLayerNorm(file, MegatronTensor(layer, "input_layernorm")),
          .qkv = FindLinear(file, MegatronTensor(layer, "attention.query_key_value")),
          .dense = FindLinear(file, MegatronTensor(layer, "attention.dense")),
          .mlp_norm = FindLayerNorm(file, MegatronTensor(layer, "post_attention_layernorm")),
          .up = FindLinear(file, MegatronTensor(layer, "mlp.dense_h_to_4h")),
          .down = FindLinear(file, MegatronTensor(layer, "mlp.dense_4h_to_h"))};
}

}  // namespace qianyi
