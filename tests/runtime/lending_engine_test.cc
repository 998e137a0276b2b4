// The cache's memory holds weights while few sequences run, and is the cache's when many do.
#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "runtime/engine.h"
#include "tests/runtime/engine_setup.h"

namespace qianyi {
namespace {

// So many places that their keys and values take some huge pages of each layer.
constexpr int64_t kPlaces = 400;

EngineSetup WithPlaces(bool streamed, const char* config = kCausal) {
  return {.config = config,
          .batch = kPlaces,
          .streamed = streamed,
          .queue = 2 * kPlaces,
          .kv_dtype = DType::kF32};
}

std::vector<GenerateRequest> Some(const Engine& engine, int count, int length) {
  std::vector<GenerateRequest> requests;
  for (int i = 0; i < count; ++i) {
    requests.push_back(Request(engine, PromptIds(i, length), i, 4));
  }
  return requests;
}

class LendingEngineTest : public ::testing::TestWithParam<const char*> {};

TEST_P(LendingEngineTest, TheSameTokensWhateverIsLent) {
  auto resident = Open(WithPlaces(false, GetParam()));
  auto streamed = Open(WithPlaces(true, GetParam()));
  ASSERT_GT(streamed->plan().models[0].lendable_bytes, 0u);
  EXPECT_EQ(resident->plan().models[0].lendable_bytes, 0u);
  for (const int count : {1, 300, 2, 400, 1}) {
    const std::vector<Outcome> expected = Generate(*resident, Some(*resident, count, 180));
    const std::vector<Outcome> got = Generate(*streamed, Some(*streamed, count, 180));
    for (int i = 0; i < count; ++i) EXPECT_EQ(got[i].blanks, expected[i].blanks) << count;
  }
}

INSTANTIATE_TEST_SUITE_P(All, LendingEngineTest, ::testing::Values(kCausal, kLatent));

TEST(LendingEngineTest, OneAloneReadsNothingOnceTheWeightsLieInTheRoomOfTheOthers) {
  auto engine = Open(WithPlaces(true));
  const uint64_t passing = engine->plan().models[0].disk_bytes;
  Generate(*engine, Some(*engine, 1, 20));
  const WeightStoreStats one = engine->weight_stats();
  EXPECT_EQ(one.lent_bytes, passing);
  Generate(*engine, Some(*engine, 1, 30));
  EXPECT_EQ(engine->weight_stats().read_bytes, one.read_bytes);
  // All places, and nearly all of their room: the weights leave, and pass again.
  Generate(*engine, Some(*engine, kPlaces, 190));
  const WeightStoreStats all = engine->weight_stats();
  EXPECT_LT(all.lent_bytes, passing);
  EXPECT_GT(all.read_bytes, one.read_bytes + passing);
}

// What prompts began with is kept for others like them, but not for ever in place of weights.
TEST(LendingEngineTest, WhatIsKeptForPrefixesGivesWayInTheEnd) {
  auto engine = Open(WithPlaces(true));
  const uint64_t passing = engine->plan().models[0].disk_bytes;
  Generate(*engine, Some(*engine, kPlaces, 190));
  int rounds = 0;
  for (; engine->weight_stats().lent_bytes < passing && rounds < 500; ++rounds) {
    std::vector<GenerateRequest> request = Some(*engine, 1, 5);
    request[0].max_tokens = 100;
    Generate(*engine, std::move(request));
  }
  EXPECT_LT(rounds, 500);
  EXPECT_LT(engine->stats().pages_kept, kPlaces * 11);
}

}  // namespace
}  // namespace qianyi
