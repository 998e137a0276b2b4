#include "runtime/drafter.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/runtime/engine_setup.h"

namespace qianyi {
namespace {

// Steps of 100 ms, and drafts that cost `draft_seconds` each and are right `right` times out of 10.
int32_t Settled(double draft_seconds, int right, int steps = 600) {
  DraftControl control;
  int32_t last = 0;
  for (int step = 0; step < steps; ++step) {
    const int32_t ahead = control.Allow(8);
    int64_t came = 0;
    bool wrong = false;
    for (int i = 0; i < ahead && !wrong; ++i) {
      wrong = (step * 7 + i * 3) % 10 >= right;
      came += wrong ? 0 : 1;
    }
    control.Count(ahead, came, wrong ? 1 : 0, ahead * draft_seconds, 0.1);
    if (step % 64 > 2) last = ahead;  // not one of the probes
  }
  return last;
}

TEST(DraftControlTest, RunsAsFarAsPays) {
  EXPECT_EQ(Settled(0.001, 10), 8) << "always right, and cheap";
  EXPECT_EQ(Settled(0.2, 10), 0) << "dearer than a step";
  EXPECT_EQ(Settled(0.001, 0), 0) << "never right";
  const int32_t half = Settled(0.02, 5), often = Settled(0.02, 9);
  EXPECT_GE(half, 1);
  EXPECT_GT(often, half);
}

TEST(DraftControlTest, MeasuresAPlainStepFirstAndAgain) {
  DraftControl control;
  EXPECT_EQ(control.Allow(8), 0) << "what a plain step takes is not known yet";
  for (int step = 0; step < 3; ++step) control.Count(0, 0, 0, 0.0, 0.1);
  for (int step = 0; step < 8; ++step) {
    EXPECT_EQ(control.Allow(8), 2);
    // One odd step decides nothing.
    control.Count(2, 2, 0, 0.002, step == 0 ? 0.5 : 0.1);
  }
  int plain = 0;
  for (int step = 0; step < 640; ++step) {
    const int32_t ahead = control.Allow(8);
    plain += ahead == 0 ? 1 : 0;
    control.Count(ahead, ahead, 0, 0.001 * ahead, 0.1);
  }
  EXPECT_EQ(plain, 10) << "one in 64";
  EXPECT_EQ(control.Allow(0), 0);
}

TEST(DraftControlTest, ComesBackWhereItPaysAgain) {
  DraftControl control;
  for (int step = 0; step < 200; ++step) {
    const int32_t ahead = control.Allow(8);
    control.Count(ahead, 0, ahead > 0 ? 1 : 0, 0.001 * ahead, 0.1);
  }
  int32_t ahead = 0;
  for (int step = 0; step < 6400; ++step) {
    ahead = control.Allow(8);
    control.Count(ahead, ahead, 0, 0.001 * ahead, 0.1);
    if (ahead == 8) break;
  }
  EXPECT_EQ(ahead, 8);
}

std::vector<GenerateRequest> Various(const Engine& engine) {
  return FewWords(engine, 9, [](int i) { return 1 + i * 5 % 41; });
}

class DraftingTest : public ::testing::TestWithParam<const char*> {};

TEST_P(DraftingTest, ChangesNoToken) {
  const EngineSetup plain{.config = GetParam(), .format = {DType::kI8}};
  std::vector<Outcome> expected;
  {
    auto engine = Open(plain);
    expected = Generate(*engine, Various(*engine));
  }
  EngineSetup alone = plain, together = plain, small = plain, streamed = plain, wrong = plain,
              tree = plain;
  alone.batch = 1;
  small.step_tokens = 3;
  streamed.streamed = true;
  wrong.draft_seed = 6;
  wrong.branches = 30;
  tree.branches = 40;
  tree.batch = 5;
  streamed.branches = 5;  // fewer than sequences
  for (EngineSetup setup : {alone, together, small, streamed, wrong, tree}) {
    setup.guesses = setup.batch == 1 ? 6 : 60;
    setup.draft = {DType::kI4, 32};
    auto engine = Open(setup);
    const std::vector<Outcome> outcomes = Generate(*engine, Various(*engine));
    for (int i = 0; i < 17; ++i) {
      EXPECT_EQ(outcomes[i].blanks, expected[i].blanks)
          << "request " << i << " batch " << setup.batch << " step " << setup.step_tokens
          << " streamed " << setup.streamed << " seed " << setup.draft_seed;
    }
    const EngineStats stats = engine->stats();
    if (setup.step_tokens > 3) {
      EXPECT_GT(stats.accepted_tokens, 10u);
      EXPECT_GT(stats.guessed_tokens, stats.accepted_tokens + 10) << "some do not come";
    }
    EXPECT_EQ(stats.running, 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Families, DraftingTest,
                         ::testing::Values(kCausal, kBlanks, kExperts, kLatent), FamilyName);

// A draft of the same weights is always right, of drawn tokens too: they are drawn alike.
TEST(DrafterTest, SavesSteps) {
  for (const uint64_t seed : {0, 7}) {
    auto plain = Open({.batch = 1});
    auto drafting = Open({.batch = 1, .guesses = 5, .draft = PackedFormat{DType::kI4, 32}});
    const GenerateRequest request = Request(*plain, PromptIds(1, 30), seed, 120);
    const Outcome expected = Generate(*plain, {request})[0];
    const Outcome outcome = Generate(*drafting, {request})[0];
    EXPECT_EQ(outcome.blanks, expected.blanks);
    const EngineStats stats = drafting->stats();
    EXPECT_EQ(stats.generated_tokens, 120u);
    EXPECT_EQ(stats.steps, plain->stats().steps - stats.accepted_tokens);
    EXPECT_LE(stats.steps, 1u + 20u + 12u) << "six tokens a step, but where words repeat";
  }
}

// Where the draft is wrong, its second choice is often right.
TEST(DrafterTest, BranchesSaveSteps) {
  for (const uint64_t seed : {0, 7}) {
    auto chain = Open({.batch = 1, .guesses = 5, .draft = PackedFormat{DType::kI4, 128}});
    auto tree =
        Open({.batch = 1, .guesses = 5, .branches = 5, .draft = PackedFormat{DType::kI4, 128}});
    auto plain = Open({.batch = 1});
    GenerateRequest request = Request(*chain, PromptIds(1, 30), seed, 150);
    if (seed == 0) request.sampling.repetition_penalty = 1.3f;  // else words repeat
    const Outcome expected = Generate(*plain, {request})[0];
    EXPECT_EQ(Generate(*chain, {request})[0].blanks, expected.blanks);
    EXPECT_EQ(Generate(*tree, {request})[0].blanks, expected.blanks);
    const EngineStats stats = tree->stats();
    EXPECT_GT(stats.accepted_branch_tokens, 3u) << seed;
    EXPECT_LT(stats.steps, chain->stats().steps) << seed;
  }
}

// Places are taken again and again, by prompts of all lengths.
TEST(DrafterTest, PlacesAreUsedAgain) {
  auto plain = Open({.batch = 2});
  auto drafting = Open({.batch = 2, .guesses = 8, .draft = PackedFormat{DType::kI4, 32}});
  for (int round = 0; round < 6; ++round) {
    std::vector<GenerateRequest> requests;
    for (int i = 0; i < 5; ++i) {
      requests.push_back(Request(*plain, PromptIds(round, 3 + 29 * i), round + i, 30));
    }
    const std::vector<Outcome> expected = Generate(*plain, requests);
    const std::vector<Outcome> outcomes = Generate(*drafting, requests);
    for (int i = 0; i < 5; ++i) EXPECT_EQ(outcomes[i].blanks, expected[i].blanks) << round;
  }
}

// The longest that a place has room for.
TEST(DrafterTest, FillsTheContext) {
  auto plain = Open({.batch = 1});
  auto drafting = Open({.batch = 1, .guesses = 8, .draft = PackedFormat{DType::kI4, 32}});
  const GenerateRequest request = Request(*plain, PromptIds(3, 40), 0, 159);
  EXPECT_EQ(Generate(*drafting, {request})[0].blanks, Generate(*plain, {request})[0].blanks);
}

}  // namespace
}  // namespace qianyi
