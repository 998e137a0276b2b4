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

}  // namespace qianyi
