#include "runtime/guesses.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/runtime/engine_setup.h"

namespace qianyi {
namespace {

std::vector<int32_t> Found(const std::vector<int32_t>& tokens, int32_t most) {
  const auto found = LookUp(tokens, most);
  return {found.begin(), found.end()};
}

TEST(LookUpTest, FindsWhatFollowedTheLastWordsBefore) {
  using Tokens = std::vector<int32_t>;
  EXPECT_EQ(Found({1, 2, 3, 4, 5, 1, 2, 3}, 8), (Tokens{4, 5, 1, 2, 3}));
  EXPECT_EQ(Found({1, 2, 3, 4, 5, 1, 2, 3}, 2), (Tokens{4, 5}));
  EXPECT_EQ(Found({9, 1, 2, 7, 8, 1, 2}, 2), (Tokens{7, 8})) << "two tokens, where three are new";
  EXPECT_EQ(Found({1, 2, 5, 0, 1, 2, 6, 0, 3, 1, 2}, 1), (Tokens{6})) << "the latest";
  EXPECT_EQ(Found({4, 1, 2, 5, 3, 1, 2, 6, 4, 1, 2}, 1), (Tokens{5})) << "three rather than two";
  EXPECT_EQ(Found({7, 7, 7}, 4), (Tokens{7}));
  EXPECT_EQ(Found({1, 2, 3, 4}, 4), Tokens{});
  for (size_t size = 0; size < 3; ++size) EXPECT_EQ(Found(Tokens(size, 3), 4), Tokens{});
}

TEST(GuessControlTest, GuessesAgainAndAgainWhereItPays) {
  GuessControl control(8);
  EXPECT_EQ(control.Allow(), 0) << "what a plain step takes is not known yet";
  control.Count(1, 0, 0, 0.100);
  int plain = 0;
  for (int step = 0; step < 640; ++step) {
    const int32_t allowed = control.Allow();
    plain += allowed == 0 ? 1 : 0;
    control.Count(1, allowed, allowed, allowed == 0 ? 0.100 : 0.110);
  }
  EXPECT_TRUE(control.worthwhile());
  EXPECT_EQ(plain, 10) << "one in 64, to know what it is compared with";
}

TEST(GuessControlTest, StopsWhereItDoesNotPayAndComesBack) {
  GuessControl control(8);
  control.Count(1, 0, 0, 0.100);
  int guessed = 0;
  for (int step = 0; step < 640; ++step) {
    const int32_t allowed = control.Allow();
    guessed += allowed > 0 ? 1 : 0;
    control.Count(1, allowed, 0, allowed > 0 ? 0.110 : 0.100);
  }
  EXPECT_FALSE(control.worthwhile());
  EXPECT_LE(guessed, 12);
  EXPECT_GE(guessed, 9) << "it is tried again now and then";
  for (int step = 0; step < 640 && !control.worthwhile(); ++step) {
    const int32_t allowed = control.Allow();
    control.Count(1, allowed, allowed, allowed > 0 ? 0.110 : 0.100);
  }
  EXPECT_TRUE(control.worthwhile());
}

TEST(GuessControlTest, GuessesGetShorterWhereTheyFail) {
  GuessControl control(16);
  control.Count(1, 0, 0, 0.1);
  const int32_t first = control.Allow();
  control.Count(1, first, first, 0.1);
  const int32_t longer = control.Allow();
  EXPECT_GT(longer, first);
  control.Count(1, longer, 1, 0.1);
  EXPECT_LT(control.Allow(), longer);
}

std::vector<GenerateRequest> Repetitive(const Engine& engine) {
  return FewWords(engine, 90, [](int) { return 40; });
}

class GuessingTest : public testing::TestWithParam<const char*> {};

TEST_P(GuessingTest, ChangesNoToken) {
  const EngineSetup plain{.config = GetParam(), .format = {DType::kI8}};
  std::vector<Outcome> expected;
  {
    auto engine = Open(plain);
    expected = Generate(*engine, Repetitive(*engine));
    EXPECT_EQ(engine->stats().guessed_tokens, 0u);
  }
  EngineSetup alone = plain, together = plain, small = plain, streamed = plain;
  alone.batch = 1;
  small.step_tokens = 3;
  streamed.streamed = true;
  for (EngineSetup setup : {alone, together, small, streamed}) {
    setup.guesses = 9;
    auto engine = Open(setup);
    const std::vector<Outcome> outcomes = Generate(*engine, Repetitive(*engine));
    for (int i = 0; i < 17; ++i) {
      EXPECT_EQ(outcomes[i].blanks, expected[i].blanks)
          << "request " << i << " batch " << setup.batch << " step " << setup.step_tokens
          << " streamed " << setup.streamed;
    }
    const EngineStats stats = engine->stats();
    EXPECT_GT(stats.accepted_tokens, 10u);
    if (setup.batch == 1) {
      EXPECT_GT(stats.guessed_tokens, stats.accepted_tokens + 10) << "some do not come";
    }
    EXPECT_EQ(stats.running, 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Families, GuessingTest,
                         testing::Values(kCausal, kBlanks, kExperts, kLatent), FamilyName);

TEST(GuessesTest, SaveSteps) {
  auto plain = Open({.batch = 1}), guessing = Open({.batch = 1, .guesses = 8});
  GenerateRequest request = Request(*plain, PromptIds(1, 30), 0, 120);
  const Outcome expected = Generate(*plain, {request})[0];
  const Outcome outcome = Generate(*guessing, {request})[0];
  EXPECT_EQ(outcome.blanks, expected.blanks);
  EXPECT_EQ(guessing->stats().generated_tokens, 120u);
  EXPECT_EQ(guessing->stats().steps, plain->stats().steps - guessing->stats().accepted_tokens);
  EXPECT_LT(guessing->stats().steps, 110u) << "greedy tokens of such a model repeat themselves";
}

}  // namespace
}  // namespace qianyi
