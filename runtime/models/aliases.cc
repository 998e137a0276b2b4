#include "runtime/models/aliases.h"

#include <array>
#include <utility>

#include "absl/strings/str_cat.h"

namespace qianyi {

void NameAttentionParts(const AttentionNames& names, std::vector<ModuleAlias>* aliases) {
  const std::string fused = names.layer + "query_key_value.weight";
  const std::array<std::pair<const char*, const RowRuns*>, 3> parts = {
      {{"q_proj", &names.q}, {"k_proj", &names.k}, {"v_proj", &names.v}}};
  for (size_t i = 0; i < parts.size(); ++i) {
    const auto& [name, rows] = parts[i];
    aliases->push_back({names.layer + name, fused, *rows});
    aliases->push_back({absl::StrCat(names.sat, "query_key_value.", i), fused, *rows});
  }
  if (names.fused.rows() > 0) {
    aliases->push_back({names.layer + "query_key_value", fused, names.fused});
  }
  aliases->push_back(
      {names.sat + "dense.0", names.layer + "dense.weight", {.run = names.out_rows}});
}

}  // namespace qianyi
