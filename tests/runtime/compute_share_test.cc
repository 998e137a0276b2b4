#include "runtime/compute_share.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace qianyi {
namespace {

// Members that always want the turn, each with pieces of work of its own length: how much each has
// computed after `turns` of them.
std::vector<int64_t> Shares(const std::vector<double>& weights, const std::vector<int64_t>& pieces,
                            int turns) {
  TurnRule rule;
  for (size_t i = 0; i < weights.size(); ++i) {
    rule.Add(weights[i]);
    rule.Want(static_cast<int>(i));
  }
  std::vector<int64_t> computed(weights.size(), 0);
  for (int turn = 0; turn < turns; ++turn) {
    const int next = rule.Next();
    rule.Begin(next);
    rule.Charge(next, pieces[next]);
    computed[next] += pieces[next];
    rule.Want(next);
  }
  return computed;
}

TEST(TurnRuleTest, SharesByWeightWhateverThePieces) {
  const std::vector<int64_t> equal = Shares({1, 1}, {1'000'000, 9'000'000}, 10000);
  EXPECT_NEAR(static_cast<double>(equal[0]) / static_cast<double>(equal[1]), 1, 0.01);
  const std::vector<int64_t> weighted = Shares({3, 1, 0.5}, {5'000'000, 1'000'000, 700'000}, 10000);
  EXPECT_NEAR(static_cast<double>(weighted[0]) / static_cast<double>(weighted[1]), 3, 0.05);
  EXPECT_NEAR(static_cast<double>(weighted[1]) / static_cast<double>(weighted[2]), 2, 0.05);
}

TEST(TurnRuleTest, WhoWasAwayDoesNotKeepOthersOut) {
  TurnRule rule;
  const int busy = rule.Add(1), idle = rule.Add(1);
  for (int i = 0; i < 1000; ++i) {
    rule.Want(busy);
    ASSERT_EQ(rule.Next(), busy);
    rule.Begin(busy);
    rule.Charge(busy, 10'000'000);
  }
  // Ten seconds of work later it gets its credit's worth before the other, not ten seconds.
  int64_t alone = 0;
  for (rule.Want(busy), rule.Want(idle); rule.Next() == idle; rule.Want(idle)) {
    rule.Begin(idle);
    rule.Charge(idle, 5'000'000);
    alone += 5'000'000;
    ASSERT_LE(alone, 10 * TurnRule::kCreditNanoseconds);
  }
  EXPECT_GT(alone, 0);
}

TEST(TurnRuleTest, NobodyWantsIt) {
  TurnRule rule;
  EXPECT_EQ(rule.Next(), -1);
  rule.Add(1);
  EXPECT_EQ(rule.Next(), -1);
}

TEST(ComputeShareTest, OneAtATimeAndNobodyIsLeftOut) {
  ComputeShare share;
  std::atomic<int> inside{0}, most{0};
  std::vector<std::thread> threads;
  for (const double weight : {1.0, 2.0, 100.0}) {
    threads.emplace_back([&, member = share.Add(weight)] {
      for (int i = 0; i < 200; ++i) {
        ComputeTurn turn(member);
        most = std::max<int>(most, ++inside);
        std::this_thread::yield();
        --inside;
        turn.Yield();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(most, 1);
}

TEST(ComputeShareTest, WhoWaitsForADiskLetsOthersCompute) {
  ComputeShare share;
  ComputeShare::Member* reader = share.Add(1);
  ComputeShare::Member* other = share.Add(1);
  ComputeTurn turn(reader);
  {
    ObservedWait wait(reader);
    wait.Begin();
    ComputeTurn meanwhile(other);  // would wait for ever
  }
  EXPECT_GE(other->stats().seconds, 0);
  EXPECT_EQ(reader->stats().weight, 1);
}

TEST(ComputeShareTest, NobodySharesWithoutMembers) {
  ComputeTurn turn(nullptr);
  turn.Yield();
  ObservedWait wait(nullptr);
  wait.Begin();
}

}  // namespace
}  // namespace qianyi
