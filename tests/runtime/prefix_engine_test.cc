// What an engine does not compute again: beginnings that it had before, and texts that are given.
#include <gtest/gtest.h>

#include <memory>
#include <span>
#include <vector>

#include "runtime/engine.h"
#include "runtime/given_text.h"
#include "tests/runtime/engine_setup.h"

namespace qianyi {
namespace {

struct Told {
  Outcome outcome;
  int64_t cached = 0;
};

Told Ask(Engine& engine, GenerateRequest request) {
  auto sink = std::make_shared<Sink>(Engine::MaxEvents(request), 0);
  const auto id = engine.Submit(std::move(request), sink);
  EXPECT_TRUE(id.ok()) << id.status();
  Told told{Collect(*sink), 0};
  told.cached = sink->cached_tokens();
  return told;
}

// A conversation that grows: each turn begins with all that was said before.
std::vector<Told> Converse(Engine& engine, uint64_t flow) {
  std::vector<Told> turns;
  std::vector<int32_t> ids = PromptIds(3, 37);
  for (uint64_t turn = 0; turn < 4; ++turn) {
    std::vector<int32_t> asked = ids;
    if (engine.model().spec().bidirectional) asked.push_back(393);
    GenerateRequest request = Request(engine, asked, turn, 20);
    request.turn.flow = flow;
    turns.push_back(Ask(engine, std::move(request)));
    const std::vector<int32_t>& said = turns.back().outcome.blanks[0];
    ids.insert(ids.end(), said.begin(), said.end());
    const std::vector<int32_t> question = PromptIds(static_cast<int>(turn), 5);
    ids.insert(ids.end(), question.begin(), question.end());
  }
  return turns;
}

class PrefixEngineTest : public ::testing::TestWithParam<const char*> {};

TEST_P(PrefixEngineTest, TheSameTokensComeWithAndWithoutWhatWasKept) {
  std::vector<Told> fresh;
  {
    auto engine = Open({.config = GetParam(), .keeps_prefixes = false});
    fresh = Converse(*engine, 1);
    EXPECT_EQ(engine->stats().cached_tokens, 0u);
    EXPECT_EQ(engine->stats().pages_kept, 0);
  }
  auto engine = Open({.config = GetParam()});
  for (const uint64_t flow : {1, 2, 1}) {
    const uint64_t computed = engine->stats().prompt_tokens, cached = engine->stats().cached_tokens;
    const std::vector<Told> kept = Converse(*engine, flow);
    int64_t sum = 0;
    for (size_t turn = 0; turn < fresh.size(); ++turn) {
      EXPECT_EQ(kept[turn].outcome.blanks, fresh[turn].outcome.blanks) << flow << " " << turn;
      sum += kept[turn].cached;
    }
    EXPECT_EQ(engine->stats().cached_tokens - cached, static_cast<uint64_t>(sum));
    EXPECT_LT(sum, 4 * 112);
    EXPECT_GT(engine->stats().prompt_tokens, computed) << "the last token at the least";
  }
  EXPECT_GT(engine->stats().pages_kept, 0);
  EXPECT_EQ(engine->stats().pages_used, 0);
}

INSTANTIATE_TEST_SUITE_P(All, PrefixEngineTest,
                         ::testing::Values(kCausal, kBlanks, kLatent, kExperts));

TEST(PrefixEngineTest, ATurnComputesOnlyWhatIsNew) {
  auto engine = Open({});
  const std::vector<Told> turns = Converse(*engine, 1);
  EXPECT_EQ(turns[0].cached, 0);
  // 37 + 20 known, of which the last was said and never fed: 56 in whole pages.
  EXPECT_EQ(turns[1].cached, 48);
  EXPECT_EQ(turns[2].cached, 80);
  EXPECT_EQ(turns[3].cached, 96);
}

TEST(PrefixEngineTest, AnotherFlowFindsNothing) {
  auto engine = Open({});
  GenerateRequest request = Request(*engine, PromptIds(1, 100), 0, 4);
  request.turn.flow = 1;
  EXPECT_EQ(Ask(*engine, request).cached, 0);
  EXPECT_EQ(Ask(*engine, request).cached, 96);
  request.turn.flow = 2;
  EXPECT_EQ(Ask(*engine, request).cached, 0);
}

// The pages of one place: what is kept gives way to whoever comes.
TEST(PrefixEngineTest, WhatIsKeptGivesWay) {
  auto engine = Open({.batch = 1});
  auto fresh = Open({.batch = 1, .keeps_prefixes = false});
  for (int i = 0; i < 30; ++i) {
    const GenerateRequest request =
        Request(*engine, PromptIds(i / 3 % 4, 60 + 31 * i % 120), 1, 12);
    const Told told = Ask(*engine, request);
    ASSERT_TRUE(told.outcome.status.ok()) << told.outcome.status;
    EXPECT_EQ(told.outcome.blanks, Ask(*fresh, request).outcome.blanks) << i;
  }
  EXPECT_GT(engine->stats().cached_tokens, 0u);
}

// The same, with a disk for what gives way: all of it is there again.
TEST(PrefixEngineTest, WhatGivesWayComesBackFromDisk) {
  auto engine = Open({.batch = 1, .prefix_bytes = 16 << 20});
  auto fresh = Open({.batch = 1, .keeps_prefixes = false});
  int64_t again = 0;
  for (int i = 0; i < 24; ++i) {
    const GenerateRequest request = Request(*engine, PromptIds(i % 4, 150), 1, 12);
    const Told told = Ask(*engine, request);
    ASSERT_TRUE(told.outcome.status.ok()) << told.outcome.status;
    EXPECT_EQ(told.outcome.blanks, Ask(*fresh, request).outcome.blanks) << i;
    EXPECT_EQ(told.cached, i < 4 ? 0 : 144) << i;
    again += told.cached;
  }
  EXPECT_EQ(engine->stats().cached_tokens, static_cast<uint64_t>(again));
  EXPECT_GT(engine->stats().pages_on_disk, 20);
}

// A second request begins while the first still writes.
TEST(PrefixEngineTest, APromptIsThereForOthersOnceItIsComputed) {
  auto engine = Open({});
  const GenerateRequest request = Request(*engine, PromptIds(1, 100), 3, 90);
  auto first = std::make_shared<Sink>(Engine::MaxEvents(request), 0);
  ASSERT_TRUE(engine->Submit(request, first).ok());
  ASSERT_NE(first->Wait(), nullptr);
  const Told second = Ask(*engine, request);
  EXPECT_EQ(second.cached, 96);
  Outcome outcome = Collect(*first);
  ASSERT_EQ(second.outcome.blanks[0].size(), 90u);
  EXPECT_TRUE(std::equal(outcome.blanks[0].begin(), outcome.blanks[0].end(),
                         second.outcome.blanks[0].begin() + 1));
}

std::vector<float> Score(Engine& engine, const std::vector<int32_t>& prompt,
                         const std::vector<int32_t>& given) {
  GenerateRequest request = Request(engine, prompt, 0, static_cast<int32_t>(given.size()));
  auto sink = std::make_shared<Sink>(Engine::MaxEvents(request), 0);
  EXPECT_TRUE(engine.Submit(std::move(request), sink, std::make_unique<GivenText>(given)).ok());
  std::vector<float> logprobs;
  while (const TokenEvent* event = sink->Wait()) {
    if (event->finish != FinishReason::kNone) continue;
    EXPECT_EQ(event->token.token, given[logprobs.size()]);
    logprobs.push_back(event->token.logprob);
  }
  EXPECT_TRUE(sink->status().ok()) << sink->status();
  return logprobs;
}

TEST(ForcedTokensTest, SeveralAreComputedInOneStepAndScoreTheSame) {
  const std::vector<int32_t> prompt = PromptIds(2, 30), given = PromptIds(5, 64);
  auto one = Open({.batch = 1});
  const std::vector<float> expected = Score(*one, prompt, given);
  ASSERT_EQ(expected.size(), 64u);
  EXPECT_EQ(one->stats().steps, 64u);
  auto many = Open({.batch = 16});  // sixteen rows of logits: the last token's and fifteen more
  EXPECT_EQ(Score(*many, prompt, given), expected);
  EXPECT_LE(many->stats().steps, 6u);
  EXPECT_EQ(many->stats().guessed_tokens, 0u) << "what must come is no guess";
  EXPECT_EQ(many->stats().accepted_tokens, 0u);
  EXPECT_EQ(many->stats().generated_tokens, 64u);
}

}  // namespace
}  // namespace qianyi
