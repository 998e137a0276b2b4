// Which keys a query sees in CogView's sparse attention (arXiv:2105.13290, section 4.1): a window
// before it, and pivots drawn from what lies before the window.
#pragma once

#include <cstdint>
#include <span>

#include "runtime/step.h"

namespace qianyi {

struct SparseWindow {
  int64_t query_window = 128;    // tokens of a block of queries
  int64_t key_window_times = 6;  // blocks of keys that such a block sees, its own included

  // The first key in the window of query `t`.
  int64_t Begin(int64_t t) const;
};

// Over a whole sequence, as in training: query `t` sees the pivots before its window, then the
// window up to itself. Each pivot stands for the keys that were left out: its score's bias.
void AppendWindowAndPivots(const SparseWindow& window, int64_t t, std::span<const int32_t> pivots,
                           SparseStep::Layer* lists);
float PivotBias(int64_t tokens, int64_t pivots);

// Over a cache, as in generation: `keys` are pivots, then the window, whose last `queries` are the
// queries themselves; query number `query` of them sees no later one. No bias.
void AppendGatheredKeys(std::span<const int32_t> keys, int64_t queries, int64_t query,
                        SparseStep::Layer* lists);
// How many pivots there are then: all of the text, and of the codes left of the window a share.
int64_t GatheredPivots(const SparseWindow& window, int64_t keys, int64_t text, int64_t num_pivot,
                       int64_t max_positions);

}  // namespace qianyi
