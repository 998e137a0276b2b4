// Which rows of a step run with which adapter's low-rank matrices: found once a step.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/backend.h"
#include "runtime/adapters/adapter.h"

namespace qianyi {

// Allocates in its constructor only. One thread.
class AdapterRows {
 public:
  explicit AdapterRows(int64_t max_rows);

  // Row i runs with adapters[i], or null. `picked`: the rows are adapters[picked[0]], ….
  void Group(std::span<const Adapter* const> adapters);
  void Group(std::span<const Adapter* const> adapters, std::span<const int32_t> picked);
  bool empty() const { return groups_.empty(); }
  // Rows by group: what the tokens of Items() point into.
  std::span<const int32_t> rows() const { return rows_; }
  // The additions to one matrix, `down` laid out in `scratch` ([rows, kMaxLoraRank]).
  std::span<const LoraItem> Items(int tensor, float* scratch);

 private:
  struct GroupOfRows {
    const Adapter* adapter;
    int64_t begin;
    int64_t count;
  };
  template <typename AdapterOf>
  void GroupRows(int64_t rows, const AdapterOf& adapter_of);

  std::vector<GroupOfRows> groups_;
  std::vector<int32_t> rows_;  // by group
  std::vector<LoraItem> items_;
};

}  // namespace qianyi
