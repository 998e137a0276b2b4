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

TEST(LookUpTest, FindsAllThatFollowed) {
  using Tokens = std::vector<int32_t>;
  const Tokens tokens = {1, 2, 5, 0, 1, 2, 6, 0, 3, 1, 2, 7, 3, 1, 2};
  const auto found = [&tokens](size_t most) {
    std::vector<Tokens> all;
    LookUpAll(tokens, 2, [&](std::span<const int32_t> following) {
      all.emplace_back(following.begin(), following.end());
      return all.size() < most;
    });
    return all;
  };
  // Of three tokens first, the latest first; then of two.
  EXPECT_EQ(found(9), (std::vector<Tokens>{{7, 3}, {7, 3}, {6, 0}, {5, 0}}));
  EXPECT_EQ(found(2), (std::vector<Tokens>{{7, 3}, {7, 3}})) << "until it is told to stop";
}

// Steps of 100 ms, in which branches bring `more` tokens and take `longer` ms; how many of 640 had
// them.
int Branched(double more, double longer) {
  BranchControl control;
  int branched = 0;
  for (int step = 0; step < 640; ++step) {
    const bool allowed = control.Allow();
    branched += allowed ? 1 : 0;
    control.Count(allowed, 2.0, allowed ? more : 0.0, allowed ? 0.1 + longer * 1e-3 : 0.1);
  }
  return branched;
}

TEST(BranchControlTest, BranchesWhereThatPays) {
  EXPECT_EQ(Branched(0.2, 5), 628) << "not in the first three, nor in one of 64";
  EXPECT_EQ(Branched(0.2, 0), 628);
  const int seldom = Branched(0.2, 20);
  EXPECT_GE(seldom, 16) << "eight times, then now and then to see";
  EXPECT_LE(seldom, 20);
  EXPECT_LE(Branched(0, 1), 20);
}

TEST(BranchControlTest, ComesBackWhereItPaysAgain) {
  BranchControl control;
  const auto step = [&control](double more) {
    const bool allowed = control.Allow();
    control.Count(allowed, 2.0, allowed ? more : 0.0, allowed ? 0.11 : 0.1);
  };
  for (int i = 0; i < 200; ++i) step(0);
  EXPECT_FALSE(control.worthwhile());
  for (int i = 0; i < 6400 && !control.worthwhile(); ++i) step(1);
  EXPECT_TRUE(control.worthwhile());
}

TEST(GuessControlTest, GuessesAgainAndAgainWhereItPays) {
  GuessControl control(8);
  EXPECT_EQ(control.Allow(), 0) << "what a plain step takes is not known yet";
  for (int step = 0; step < 3; ++step) control.Count(1, 0, 0, 0, 0.100);
  int plain = 0;
  for (int step = 0; step < 640; ++step) {
    const int32_t allowed = control.Allow();
    plain += allowed == 0 ? 1 : 0;
    control.Count(1, allowed, allowed, 0, allowed == 0 ? 0.100 : 0.110);
  }
  EXPECT_TRUE(control.worthwhile());
  EXPECT_EQ(plain, 10) << "one in 64, to know what it is compared with";
}

TEST(GuessControlTest, StopsWhereItDoesNotPayAndComesBack) {
  GuessControl control(8);
  for (int step = 0; step < 3; ++step) control.Count(1, 0, 0, 0, 0.100);
  int guessed = 0;
  for (int step = 0; step < 640; ++step) {
    const int32_t allowed = control.Allow();
    guessed += allowed > 0 ? 1 : 0;
    control.Count(1, allowed, 0, 0, allowed > 0 ? 0.110 : 0.100);
  }
  EXPECT_FALSE(control.worthwhile());
  EXPECT_LE(guessed, 20);
  EXPECT_GE(guessed, 16) << "eight times, and now and then again";
  for (int step = 0; step < 640 && !control.worthwhile(); ++step) {
    const int32_t allowed = control.Allow();
    control.Count(1, allowed, allowed, 0, allowed > 0 ? 0.110 : 0.100);
  }
  EXPECT_TRUE(control.worthwhile());
}

// The clock of one step, early or late, decides nothing.
TEST(GuessControlTest, OneOddStepDecidesNothing) {
  GuessControl control(8);
  int guessed = 0;
  for (int step = 0; step < 60; ++step) {
    const int32_t allowed = control.Allow();
    guessed += allowed > 0 ? 1 : 0;
    const bool odd = step == 3 || step == 20;  // the first with guesses, and another one
    control.Count(1, allowed, allowed, 0, odd ? 0.3 : 0.1);
  }
  EXPECT_EQ(guessed, 57);
}

TEST(GuessControlTest, GuessesGetShorterWhereTheyFail) {
  GuessControl control(16);
  for (int step = 0; step < 3; ++step) control.Count(1, 0, 0, 0, 0.1);
  const int32_t first = control.Allow();
  control.Count(1, first, first, 0, 0.1);
  const int32_t longer = control.Allow();
  EXPECT_GT(longer, first);
  control.Count(1, longer, 1, 0, 0.1);
  EXPECT_LT(control.Allow(), longer);
}

std::vector<GenerateRequest> Repetitive(const Engine& engine) {
  return FewWords(engine, 90, [](int) { return 40; });
}

class GuessingTest : public ::testing::TestWithParam<const char*> {};

TEST_P(GuessingTest, ChangesNoToken) {
  const EngineSetup plain{.config = GetParam(), .format = {DType::kI8}};
  std::vector<Outcome> expected;
  {
    auto engine = Open(plain);
    expected = Generate(*engine, Repetitive(*engine));
    EXPECT_EQ(engine->stats().guessed_tokens, 0u);
  }
  EngineSetup alone = plain, together = plain, small = plain, streamed = plain, branching = plain;
  alone.batch = 1;
  small.step_tokens = 3;
  streamed.streamed = true;
  together.branches = 5;  // fewer than sequences
  branching.branches = 40;
  branching.batch = 3;
  for (EngineSetup setup : {alone, together, small, streamed, branching}) {
    setup.guesses = 9;
    auto engine = Open(setup);
    const std::vector<Outcome> outcomes = Generate(*engine, Repetitive(*engine));
    for (int i = 0; i < 17; ++i) {
      EXPECT_EQ(outcomes[i].blanks, expected[i].blanks)
          << "request " << i << " batch " << setup.batch << " step " << setup.step_tokens
          << " streamed " << setup.streamed << " branches " << setup.branches;
    }
    const EngineStats stats = engine->stats();
    EXPECT_GT(stats.accepted_tokens, 10u);
    EXPECT_EQ(stats.branch_tokens > stats.accepted_branch_tokens, setup.branches > 0);
    EXPECT_EQ(stats.accepted_branch_tokens > 10, setup.branches > 0);
    if (setup.batch == 1) {
      EXPECT_GT(stats.guessed_tokens, stats.accepted_tokens + 10) << "some do not come";
    }
    EXPECT_EQ(stats.running, 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Families, GuessingTest,
                         ::testing::Values(kCausal, kBlanks, kExperts, kLatent), FamilyName);

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

// What was said before went on in several ways, by turns.
TEST(GuessesTest, BranchesSaveSteps) {
  auto chain = Open({.batch = 1, .guesses = 8});
  auto tree = Open({.batch = 1, .guesses = 8, .branches = 12});
  uint64_t branched = 0;
  for (uint64_t seed = 1; seed < 6; ++seed) {
    GenerateRequest request = Request(*chain, PromptIds(static_cast<int>(seed), 30), seed, 120);
    for (const int32_t token : {40, 41, 42}) request.sampling.logit_bias.push_back({token, 60});
    const Outcome expected = Generate(*chain, {request})[0];
    EXPECT_EQ(Generate(*tree, {request})[0].blanks, expected.blanks) << seed;
    const EngineStats stats = tree->stats();
    EXPECT_GT(stats.accepted_branch_tokens, branched) << seed;
    branched = stats.accepted_branch_tokens;
    EXPECT_LE(stats.accepted_branch_tokens, stats.accepted_tokens);
    EXPECT_LE(stats.branch_tokens, stats.guessed_tokens);
    EXPECT_EQ(stats.pages_used, 0);
  }
  EXPECT_LT(tree->stats().steps, chain->stats().steps);
  EXPECT_EQ(tree->stats().generated_tokens, chain->stats().generated_tokens);
  EXPECT_EQ(tree->stats().prompt_tokens, chain->stats().prompt_tokens)
      << "what branches compute again is no prompt";
}

// One sequence takes nearly all pages there are.
TEST(GuessesTest, BranchesDoWithoutPages) {
  auto plain = Open({.batch = 1});
  auto tree = Open({.batch = 1, .guesses = 8, .branches = 12});
  GenerateRequest request = Request(*plain, PromptIds(3, 40), 2, 159);
  for (const int32_t token : {40, 41, 42}) request.sampling.logit_bias.push_back({token, 60});
  EXPECT_EQ(Generate(*tree, {request})[0].blanks, Generate(*plain, {request})[0].blanks);
  EXPECT_EQ(tree->stats().pages_used, 0);
}

}  // namespace
}  // namespace qianyi
