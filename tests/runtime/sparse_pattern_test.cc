#include "runtime/sparse_pattern.h"

#include <gtest/gtest.h>

#include <cmath>

namespace qianyi {
namespace {

TEST(SparsePatternTest, AWindowIsWholeBlocksOfKeysUpToTheQuery) {
  const SparseWindow window = {.query_window = 8, .key_window_times = 3};
  EXPECT_EQ(window.Begin(0), 0);
  EXPECT_EQ(window.Begin(23), 0);
  EXPECT_EQ(window.Begin(24), 8);
  EXPECT_EQ(window.Begin(63), 40);
}

TEST(SparsePatternTest, PivotsAreThoseBeforeTheWindow) {
  const SparseWindow window = {.query_window = 4, .key_window_times = 1};
  SparseStep::Layer lists;
  const int32_t pivots[] = {1, 5, 9};
  AppendWindowAndPivots(window, 2, pivots, &lists);
  AppendWindowAndPivots(window, 9, pivots, &lists);
  EXPECT_EQ(lists.slots, (std::vector<int32_t>{0, 1, 2, 1, 5, 8, 9}));
  EXPECT_EQ(lists.offsets, (std::vector<int64_t>{0, 3, 7}));
  EXPECT_EQ(lists.pivots, (std::vector<int32_t>{0, 2}));
  EXPECT_FLOAT_EQ(PivotBias(64, 16), std::log(4.0f));
  EXPECT_FLOAT_EQ(PivotBias(3, 16), 0.0f);
}

TEST(SparsePatternTest, QueriesSeeNoLaterQuery) {
  SparseStep::Layer lists;
  const int32_t keys[] = {0, 3, 7, 8, 9};
  for (int i = 0; i < 2; ++i) AppendGatheredKeys(keys, 2, i, &lists);
  EXPECT_EQ(lists.slots, (std::vector<int32_t>{0, 3, 7, 8, 0, 3, 7, 8, 9}));
  EXPECT_EQ(GatheredPivots({.query_window = 8, .key_window_times = 3}, 34, 9, 400, 1089), 9);
  EXPECT_EQ(GatheredPivots({.query_window = 8, .key_window_times = 3}, 64, 9, 400, 1089), 20);
  EXPECT_EQ(GatheredPivots({.query_window = 8, .key_window_times = 3}, 20, 9, 400, 1089), 0);
}

}  // namespace
}  // namespace qianyi
