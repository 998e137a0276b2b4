#include "runtime/scheduler.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace qianyi {
namespace {

Sequence Make(int32_t tokens, int32_t cached = 0, int32_t bidirectional = 0) {
  Sequence sequence;
  for (int32_t i = 0; i < tokens; ++i) sequence.Append(100 + i, i, 1000 + i);
  sequence.cached = cached;
  sequence.bidirectional = bidirectional;
  for (int32_t page = 0; page < 64; ++page) sequence.pages.push_back(200 - page);
  return sequence;
}

Step Schedule(std::vector<Sequence>& sequences, int64_t room) {
  std::vector<Sequence*> list;
  std::vector<int> order;
  for (Sequence& sequence : sequences) {
    order.push_back(static_cast<int>(list.size()));
    list.push_back(&sequence);
  }
  Step step(4096);
  ScheduleStep(list, order, {.prompt_tokens = room}, &step);
  return step;
}

TEST(SchedulerTest, CarriesEverythingPerToken) {
  std::vector<Sequence> sequences = {Make(20, 17)};
  const Step step = Schedule(sequences, 100);
  EXPECT_EQ(step.tokens, (std::vector<int32_t>{117, 118, 119}));
  EXPECT_EQ(step.positions[0], (std::vector<int32_t>{17, 18, 19}));
  EXPECT_EQ(step.positions[1], (std::vector<int32_t>{1017, 1018, 1019}));
  // Slot 17 is the second of the second page.
  EXPECT_EQ(step.slots, (std::vector<int64_t>{199 * 16 + 1, 199 * 16 + 2, 199 * 16 + 3}));
  EXPECT_EQ(step.visible, (std::vector<int32_t>{18, 19, 20}));
  EXPECT_EQ(step.logit_tokens, (std::vector<int32_t>{2}));
  EXPECT_EQ(sequences[0].cached, 20);
}

TEST(SchedulerTest, GeneratingSequencesComeFirstThenPromptsInOrder) {
  std::vector<Sequence> sequences = {Make(10), Make(5, 4), Make(8)};
  const Step step = Schedule(sequences, 12);
  EXPECT_EQ(step.size(), 1 + 10 + 2);
  EXPECT_EQ(step.sequences.front(), 1);
  EXPECT_EQ(step.sequences[1], 0);
  EXPECT_EQ(step.sequences.back(), 2);
  EXPECT_EQ(step.logit_tokens, (std::vector<int32_t>{0, 10}));  // the cut prompt wants none
  EXPECT_EQ(sequences[2].cached, 2);
}

TEST(SchedulerTest, GuessesRideWithTheirTokenAndWantLogits) {
  std::vector<Sequence> sequences = {Make(12, 8), Make(5, 4), Make(9)};
  sequences[0].guessed = 3;
  const Step step = Schedule(sequences, 9);
  EXPECT_EQ(step.sequences, (std::vector<int32_t>{0, 0, 0, 0, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2}));
  EXPECT_EQ(step.logit_tokens, (std::vector<int32_t>{0, 1, 2, 3, 4, 13}));
  EXPECT_EQ(step.visible[3], 12);
}

TEST(SchedulerTest, BranchesRideWholeAndWantLogitsOfTheirOwn) {
  std::vector<Sequence> sequences = {Make(12, 8), Make(9), Make(5)};
  sequences[0].guessed = 3;
  sequences[2].again = 3;  // the last known token, and two guesses
  sequences[2].guessed = 1;
  sequences[2].prefix_slots = 8;
  const Step step = Schedule(sequences, 4);
  EXPECT_EQ(step.sequences, (std::vector<int32_t>{0, 0, 0, 0, 2, 2, 2, 2, 2, 1, 1, 1, 1}));
  EXPECT_EQ(step.logit_tokens, (std::vector<int32_t>{0, 1, 2, 3, 7, 8}));
  EXPECT_EQ(step.visible[4], 9) << "itself, and what is before it";
}

TEST(SchedulerTest, CausalPromptsAreCut) {
  std::vector<Sequence> sequences = {Make(10)};
  EXPECT_EQ(Schedule(sequences, 4).size(), 4);
  EXPECT_EQ(Schedule(sequences, 4).size(), 4);
  const Step last = Schedule(sequences, 4);
  EXPECT_EQ(last.size(), 2);
  EXPECT_EQ(last.logit_tokens.size(), 1u);
}

TEST(SchedulerTest, BidirectionalContextsAreAtomic) {
  std::vector<Sequence> sequences = {Make(6, 0), Make(9, 0, 8), Make(3)};
  const Step first = Schedule(sequences, 10);
  // 6 tokens leave room for 4: the context of 8 waits, and so does the prompt behind it.
  EXPECT_EQ(first.size(), 6);
  sequences[0] = Make(7, 6);
  const Step second = Schedule(sequences, 10);
  EXPECT_EQ(second.size(), 1 + 9 + 1);
  for (int i = 1; i <= 8; ++i) EXPECT_EQ(second.visible[i], 8);
  EXPECT_EQ(second.visible[9], 9);  // the start token behind the context is causal
}

TEST(SchedulerTest, ContextMayRideWithoutItsCausalRest) {
  std::vector<Sequence> sequences = {Make(12, 0, 8)};
  EXPECT_EQ(Schedule(sequences, 9).size(), 9);
  EXPECT_EQ(Schedule(sequences, 9).size(), 3);
}

TEST(SchedulerTest, EveryTokenRidesOnceAndNothingStarves) {
  std::mt19937 random(7);
  for (int round = 0; round < 200; ++round) {
    std::vector<Sequence> sequences;
    const int64_t room = 1 + random() % 40;
    int64_t total = 0;
    for (int i = 0; i < 8; ++i) {
      const int32_t tokens = 1 + random() % 50;
      const bool atomic = random() % 2 == 0;
      sequences.push_back(
          Make(tokens, 0, atomic ? static_cast<int32_t>(std::min<int64_t>(tokens, room)) : 0));
      total += tokens;
    }
    int64_t seen = 0;
    for (int steps = 0; seen < total; ++steps) {
      ASSERT_LT(steps, 1000);
      const Step step = Schedule(sequences, room);
      ASSERT_GT(step.size(), 0);
      ASSERT_LE(step.size(), room + 8);
      seen += step.size();
    }
    EXPECT_EQ(seen, total);
  }
}

}  // namespace
}  // namespace qianyi
