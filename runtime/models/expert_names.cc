#include "runtime/models/expert_names.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/experts.h"

namespace qianyi {

ExpertConfig ReadExperts(ConfigReader& reader) {
  ExpertConfig c;
  c.count = reader.Int("n_routed_experts", 1, 1 << 12);
  c.per_token = reader.Int("num_experts_per_tok", 1, 256);
  c.ffn = reader.Int("moe_intermediate_size", 1, 1 << 19);
  c.shared = reader.Int("n_shared_experts", 1, 64, 1);
  c.groups = reader.Int("n_group", 1, kMaxExpertGroups, 1);
  c.kept_groups = reader.Int("topk_group", 1, kMaxExpertGroups, 1);
  c.normalize = reader.Bool("norm_topk_prob", true);
  c.scale = static_cast<float>(reader.Number("routed_scaling_factor", 0, 1e3, 1.0));
  reader.Require(c.per_token <= c.count, "num_experts_per_tok must not exceed n_routed_experts");
  reader.Require(c.kept_groups <= c.groups, "topk_group must not exceed n_group");
  reader.Require(c.count % c.groups == 0, "n_routed_experts must be a multiple of n_group");
  reader.Require(c.groups == 1 || c.count / c.groups >= 2,
                 "n_group must leave two experts or more in a group");
  return c;
}

void AddExperts(const ExpertConfig& config, const std::string& prefix, int64_t hidden_size,
                bool kept, ModelSpec* spec) {
  const auto add = [&](std::string name, std::vector<int64_t> shape, TensorUse use, int expert) {
    spec->tensors.push_back({.name = absl::StrCat(prefix, name),
                             .shape = std::move(shape),
                             .use = use,
                             .unit = static_cast<int>(spec->units.size()) - 1,
                             .expert = expert,
                             .kept = kept});
  };
  const auto gated = [&](const std::string& name, int64_t ffn, TensorUse use, int expert) {
    add(name + "gate_proj.weight", {ffn, hidden_size}, use, expert);
    add(name + "up_proj.weight", {ffn, hidden_size}, use, expert);
    add(name + "down_proj.weight", {hidden_size, ffn}, use, expert);
  };
  add("gate.weight", {config.count, hidden_size}, TensorUse::kConstant, -1);
  add("gate.e_score_correction_bias", {config.count}, TensorUse::kConstant, -1);
  spec->tensors.back().routed = config.per_token;
  gated("shared_experts.", config.shared_ffn(), TensorUse::kMatrix, -1);
  const TensorUse use = kept ? TensorUse::kMatrix : TensorUse::kExpert;
  for (int64_t e = 0; e < config.count; ++e) {
    const int number = kept ? -1 : static_cast<int>(spec->experts.total++);
    gated(absl::StrCat("experts.", e, "."), config.ffn, use, number);
  }
  spec->experts.per_layer = std::max(spec->experts.per_layer, config.count);
  spec->experts.per_token = std::max(spec->experts.per_token, config.per_token);
}

GatedWeights FindGated(const ModelFile& file, const std::string& prefix) {
  return {.gate = {file.Find(prefix + "gate_proj.weight")},
          .up = {file.Find(prefix + "up_proj.weight")},
          .down = {file.Find(prefix + "down_proj.weight")}};
}

std::unique_ptr<ExpertLayer> FindExperts(const ExpertConfig& config, const ModelFile& file,
                                         const std::string& prefix) {
  // There are many: in the order of AddExperts, which saves looking for each.
  int tensor = file.Find(absl::StrCat(prefix, "experts.0.gate_proj.weight"));
  std::vector<ExpertWeights> experts;
  for (int64_t e = 0; e < config.count; ++e, tensor += 3) {
    experts.push_back({.number = file.tensors[tensor].spec.expert,
                       .gate = {tensor},
                       .up = {tensor + 1},
                       .down = {tensor + 2},
                       .ffn = config.ffn});
  }
  const ExpertLayer::Gating gating = {
      .gate = RouterGate::kSigmoid,
      .top_k = config.per_token,
      .groups = config.groups,
      .kept_groups = config.kept_groups,
      .normalize = config.normalize,
      .scale = config.scale,
      .router = file.Find(prefix + "gate.weight"),
      .correction = file.Find(prefix + "gate.e_score_correction_bias"),
  };
  return std::make_unique<ExpertLayer>(gating, std::move(experts));
}

absl::Status RunGated(const GatedWeights& weights, int64_t ffn, Tensor x, Tensor out, Pass& pass) {
  const Tensor wide = pass.wide(2 * ffn);
  const Tensor gate = wide.Columns(0, ffn), up = wide.Columns(ffn, ffn);
  if (auto status = pass.Linear(weights.gate, x, gate); !status.ok()) return status;
  if (auto status = pass.Linear(weights.up, x, up); !status.ok()) return status;
  pass.backend().gated_activate({.kind = Activation::kSilu, .gate = gate, .value = up, .out = gate},
                                pass.stream());
  return pass.Linear(weights.down, gate, out, out);
}

}  // namespace qianyi
