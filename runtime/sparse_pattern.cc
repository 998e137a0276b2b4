#include "runtime/sparse_pattern.h"

#include <algorithm>
#include <cmath>

namespace qianyi {
namespace {

void EndList(int32_t pivots, SparseStep::Layer* lists) {
  if (lists->offsets.empty()) lists->offsets.push_back(0);
  lists->offsets.push_back(static_cast<int64_t>(lists->slots.size()));
  lists->pivots.push_back(pivots);
}

}  // namespace

int64_t SparseWindow::Begin(int64_t t) const {
  return std::max<int64_t>(0, (t / query_window - key_window_times + 1) * query_window);
}

void AppendWindowAndPivots(const SparseWindow& window, int64_t t, std::span<const int32_t> pivots,
                           SparseStep::Layer* lists) {
  const int64_t begin = window.Begin(t);
  int32_t count = 0;
  for (const int32_t pivot : pivots) {
    if (pivot >= begin) continue;
    lists->slots.push_back(pivot);
    ++count;
  }
  for (int64_t key = begin; key <= t; ++key) lists->slots.push_back(static_cast<int32_t>(key));
  EndList(count, lists);
}

float PivotBias(int64_t tokens, int64_t pivots) {
  return std::log(static_cast<float>(std::max<int64_t>(1, tokens / std::max<int64_t>(1, pivots))));
}

void AppendGatheredKeys(std::span<const int32_t> keys, int64_t queries, int64_t query,
                        SparseStep::Layer* lists) {
  const size_t seen = keys.size() - static_cast<size_t>(queries - query - 1);
  lists->slots.insert(lists->slots.end(), keys.begin(), keys.begin() + seen);
  EndList(0, lists);
}

int64_t GatheredPivots(const SparseWindow& window, int64_t keys, int64_t text, int64_t num_pivot,
                       int64_t max_positions) {
  const int64_t left = std::max<int64_t>(0, keys - window.query_window * window.key_window_times);
  if (left <= text) return left;
  return text + (left - text) * num_pivot / max_positions;
}

}  // namespace qianyi
