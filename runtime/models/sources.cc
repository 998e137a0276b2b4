#include "runtime/models/sources.h"

#include <charconv>

namespace qianyi {

LayerName SplitLayer(std::string_view name, std::string_view before) {
  LayerName split;
  if (!name.starts_with(before)) return split;
  name.remove_prefix(before.size());
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), split.layer);
  if (error != std::errc() || end == name.data() + name.size() || *end != '.') return {};
  split.rest = std::string(end + 1, name.data() + name.size());
  return split;
}

SourceParts Renamed(const TensorSpec& tensor, std::string name) {
  return {{.tensor = std::move(name), .rows = tensor.rows(), .to = {0, tensor.rows()}}};
}

SourceParts Stacked(const std::vector<std::pair<std::string, int64_t>>& names_and_rows) {
  SourceParts parts;
  int64_t row = 0;
  for (const auto& [name, rows] : names_and_rows) {
    parts.push_back({.tensor = name, .rows = rows, .to = {row, rows}});
    row += rows;
  }
  return parts;
}

namespace {

struct GgufName {
  std::string_view own, gguf;
};
constexpr GgufName kGgufTop[] = {{"model.embed_tokens.weight", "token_embd.weight"},
                                 {"model.norm.weight", "output_norm.weight"},
                                 {"lm_head.weight", "output.weight"}};
// Behind "model.layers.N." and "blk.N.".
constexpr GgufName kGgufLayer[] = {
    {"input_layernorm.weight", "attn_norm.weight"},
    {"self_attn.q_proj.weight", "attn_q.weight"},
    {"self_attn.q_proj.bias", "attn_q.bias"},
    {"self_attn.k_proj.weight", "attn_k.weight"},
    {"self_attn.k_proj.bias", "attn_k.bias"},
    {"self_attn.v_proj.weight", "attn_v.weight"},
    {"self_attn.v_proj.bias", "attn_v.bias"},
    {"self_attn.o_proj.weight", "attn_output.weight"},
    {"self_attn.q_norm.weight", "attn_q_norm.weight"},
    {"self_attn.k_norm.weight", "attn_k_norm.weight"},
    {"post_self_attn_layernorm.weight", "post_attention_norm.weight"},
    {"post_mlp_layernorm.weight", "post_ffw_norm.weight"},
    {"mlp.gate_up_proj.weight", "ffn_up.weight"},
    {"mlp.gate_proj.weight", "ffn_gate.weight"},
    {"mlp.up_proj.weight", "ffn_up.weight"},
    {"mlp.down_proj.weight", "ffn_down.weight"},
    {"mlp.gate.weight", "ffn_gate_inp.weight"},
    {"mlp.gate.e_score_correction_bias", "exp_probs_b.bias"},
    {"mlp.shared_experts.gate_proj.weight", "ffn_gate_shexp.weight"},
    {"mlp.shared_experts.up_proj.weight", "ffn_up_shexp.weight"},
    {"mlp.shared_experts.down_proj.weight", "ffn_down_shexp.weight"},
    {"eh_proj.weight", "nextn.eh_proj.weight"},
    {"enorm.weight", "nextn.enorm.weight"},
    {"hnorm.weight", "nextn.hnorm.weight"},
    {"embed_tokens.weight", "nextn.embed_tokens.weight"},
    {"shared_head.head.weight", "nextn.shared_head_head.weight"},
    {"shared_head.norm.weight", "nextn.shared_head_norm.weight"}};

}  // namespace

TensorSources GgufSources(const TensorSpec& tensor, bool moe, int64_t experts) {
  for (const GgufName& name : kGgufTop) {
    if (tensor.name != name.own) continue;
    TensorSources sources{.others = {Renamed(tensor, std::string(name.gguf))}};
    // A head that is the embedding's matrix may be left out.
    if (name.own == "lm_head.weight")
      sources.others.push_back(Renamed(tensor, "token_embd.weight"));
    return sources;
  }
  const auto [layer, rest] = SplitLayer(tensor.name, "model.layers.");
  const std::string block = "blk." + std::to_string(layer) + ".";
  if (rest == "post_attention_layernorm.weight") {
    return {.others = {
                Renamed(tensor, block + (moe ? "post_attention_norm" : "ffn_norm") + ".weight")}};
  }
  for (const GgufName& name : kGgufLayer) {
    if (rest == name.own) return {.others = {Renamed(tensor, block + std::string(name.gguf))}};
  }
  const auto [expert, part] = SplitLayer(rest, "mlp.experts.");
  for (const char* matrix : {"gate", "up", "down"}) {
    if (part != std::string(matrix) + "_proj.weight") continue;
    return {.others = {{{.tensor = block + "ffn_" + matrix + "_exps.weight",
                         .rows = experts * tensor.rows(),
                         .first_row = expert * tensor.rows(),
                         .to = {0, tensor.rows()}}}}};
  }
  return {};
}

}  // namespace qianyi
