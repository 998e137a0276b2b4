#include "runtime/step_threads.h"

#include <algorithm>
#include <functional>

#include "gtest/gtest.h"

namespace qianyi {
namespace {

struct Step {
  double seconds = 0, stall_seconds = 0;
};

// Runs steps of `tokens` for `windows` windows and returns with which share of them had `wanted`
// threads.
double ShareWith(int wanted, int windows, int64_t tokens, StepThreads* threads,
                 const std::function<Step(int threads)>& step) {
  int with = 0;
  for (int i = 0; i < windows; ++i) {
    const int used = threads->Of(tokens);
    with += used == wanted ? 1 : 0;
    const Step took = step(used);
    threads->Took(tokens, took.seconds, took.stall_seconds);
  }
  return static_cast<double>(with) / windows;
}

// Reading takes longer the more threads compute.
Step DiskBound(int threads) { return {1.0 + 0.1 * threads, 1.0 + 0.1 * threads - 0.4 / threads}; }
// The disk is fast: waiting is short, and half of the threads need twice the time.
Step ComputeBound(int threads) { return {2.0 / threads, 0.01}; }

TEST(StepThreadsTest, BeginsWithAll) {
  EXPECT_EQ(StepThreads(2).Of(1), 2);
  EXPECT_EQ(StepThreads(1).Of(1), 1);
  EXPECT_EQ(StepThreads(16).Of(512), 16);
}

TEST(StepThreadsTest, OneThreadStaysOne) {
  StepThreads threads(1);
  EXPECT_EQ(ShareWith(1, 100, 1, &threads, DiskBound), 1);
}

TEST(StepThreadsTest, FewerWhereTheDiskIsFasterForIt) {
  StepThreads threads(2);
  EXPECT_GT(ShareWith(1, 200, 1, &threads, DiskBound), 0.9);
  EXPECT_EQ(threads.Of(1), 1);
}

TEST(StepThreadsTest, GoesDownStepByStep) {
  StepThreads threads(16);
  EXPECT_GT(ShareWith(1, 400, 1, &threads, DiskBound), 0.7);
}

TEST(StepThreadsTest, NeverTriesFewerWhereThereIsNoRoom) {
  StepThreads threads(2);
  EXPECT_EQ(ShareWith(2, 200, 32, &threads, ComputeBound), 1);
}

TEST(StepThreadsTest, StaysWhereFewerAreNotFaster) {
  StepThreads threads(4);
  const auto same = [](int) { return Step{1, 0.9}; };
  EXPECT_GT(ShareWith(4, 200, 1, &threads, same), 0.9);
}

TEST(StepThreadsTest, ComesBackWhenTheLoadChanges) {
  StepThreads threads(2);
  ShareWith(1, 100, 1, &threads, DiskBound);
  ASSERT_EQ(threads.Of(1), 1);
  EXPECT_GT(ShareWith(2, 200, 1, &threads, ComputeBound), 0.8);
}

TEST(StepThreadsTest, StepsOfOtherSizesAreJudgedByThemselves) {
  StepThreads threads(2);
  for (int i = 0; i < 200; ++i) {
    ShareWith(1, 1, 1, &threads, DiskBound);
    EXPECT_EQ(ShareWith(2, 1, 512, &threads, ComputeBound), 1);
  }
  EXPECT_EQ(threads.Of(1), 1);
  EXPECT_EQ(threads.Of(512), 2);
}

TEST(StepThreadsTest, ShortStepsAreMeasuredTogether) {
  StepThreads threads(2);
  int changes = 0;
  for (int i = 0, last = 2; i < 100; ++i) {  // one window: a hundred steps of 5 ms
    const int used = threads.Of(1);
    changes += used != last ? 1 : 0;
    last = used;
    threads.Took(1, 0.0049, 0.0045);
  }
  EXPECT_EQ(changes, 0);
}

}  // namespace
}  // namespace qianyi
