#include "runtime/adapters/adapter_rows.h"

#include <algorithm>

#include "runtime/adapters/lora_file.h"

namespace qianyi {

AdapterRows::AdapterRows(int64_t max_rows) {
  groups_.reserve(std::min(max_rows, kMaxAdapters));
  rows_.reserve(max_rows);
  items_.reserve(groups_.capacity() * kMaxLoraParts);
}

template <typename AdapterOf>
void AdapterRows::GroupRows(int64_t rows, const AdapterOf& adapter_of) {
  groups_.clear();
  rows_.clear();
  size_t last = 0;  // rows of a sequence are neighbours
  const auto group_of = [&](const Adapter* adapter) -> GroupOfRows& {
    if (last < groups_.size() && groups_[last].adapter == adapter) return groups_[last];
    for (last = 0; last < groups_.size(); ++last) {
      if (groups_[last].adapter == adapter) return groups_[last];
    }
    return groups_.emplace_back(GroupOfRows{adapter, 0, 0});
  };
  const auto takes_part = [](const Adapter* adapter) {
    return adapter != nullptr && adapter->has_lora();
  };
  for (int64_t i = 0; i < rows; ++i) {
    if (takes_part(adapter_of(i))) ++group_of(adapter_of(i)).count;
  }
  int64_t begin = 0;
  for (GroupOfRows& group : groups_) {
    group.begin = begin;
    begin += group.count;
    group.count = 0;
  }
  rows_.resize(begin);
  for (int64_t i = 0; i < rows && !groups_.empty(); ++i) {
    if (!takes_part(adapter_of(i))) continue;
    GroupOfRows& group = group_of(adapter_of(i));
    rows_[group.begin + group.count++] = static_cast<int32_t>(i);
  }
}

void AdapterRows::Group(std::span<const Adapter* const> adapters) {
  GroupRows(static_cast<int64_t>(adapters.size()), [&](int64_t i) { return adapters[i]; });
}

void AdapterRows::Group(std::span<const Adapter* const> adapters, std::span<const int32_t> picked) {
  GroupRows(static_cast<int64_t>(picked.size()), [&](int64_t i) { return adapters[picked[i]]; });
}

std::span<const LoraItem> AdapterRows::Items(int tensor, float* scratch) {
  items_.clear();
  for (const GroupOfRows& group : groups_) {
    for (const LoraWeights& weights : group.adapter->lora(tensor)) {
      items_.push_back({weights, rows_.data() + group.begin, group.count, scratch});
      scratch += group.count * weights.rank;
    }
  }
  return items_;
}

}  // namespace qianyi
