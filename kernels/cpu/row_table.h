// Fills a RowKernels table with the templates instantiated for one Vec.
#pragma once

#include "kernels/cpu/attention_templates.h"
#include "kernels/cpu/lora_templates.h"
#include "kernels/cpu/quantize_templates.h"
#include "kernels/cpu/route_templates.h"
#include "kernels/cpu/row_kernels.h"
#include "kernels/cpu/row_templates.h"
#include "kernels/cpu/sparse_attention_templates.h"

namespace qianyi::cpu {
namespace {

template <typename V>
constexpr RowKernels RowTable() {
  return {.quantize = QuantizeRow<V>,
          .layer_norm = LayerNormRow<V>,
          .max_abs = MaxAbs<V>,
          .rms_norm = RmsNormRow<V>,
          .rope = RopeHead<V>,
          .activate = ActivateRow<V>,
          .gated_activate = GatedActivateRow<V>,
          .add = AddRow<V>,
          .to_half = ToHalfRow<V>,
          .to_bfloat = ToBFloatRow<V>,
          .to_int8 = ToInt8Row<V>,
          .attention = AttendRows<V>,
          .sparse_attention = AttendSlots<V>,
          .lora_down = LoraDown<V>,
          .lora_up = LoraUp<V>,
          .sigmoid = SigmoidRow<V>,
          .softmax = SoftmaxRow<V>,
          .combine = CombineRow<V>,
          .quantize_int4 = QuantizeInt4Row<V>};
}

}  // namespace
}  // namespace qianyi::cpu
