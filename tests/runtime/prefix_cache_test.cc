#include "runtime/prefix_cache.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

#include "tests/runtime/prefix_setup.h"

namespace qianyi {
namespace {

class PrefixCacheTest : public ::testing::Test {
 protected:
  explicit PrefixCacheTest(int64_t pages = 8)
      : kv_(*KvCache::Create(kSmallKv, DType::kF16, pages, Cpu())), prefixes_(*kv_) {}

  // Runs a sequence to its end: how many of its tokens were there.
  int32_t Run(Sequence sequence, uint64_t flow = 1) {
    const int32_t found = prefixes_.Take(flow, &sequence);
    const int64_t tokens = static_cast<int64_t>(sequence.tokens.size());
    const int64_t wanted = KvCache::PagesFor(tokens) - static_cast<int64_t>(sequence.pages.size());
    EXPECT_TRUE(prefixes_.MakeRoom(wanted));
    EXPECT_TRUE(kv_->Reserve(tokens, &sequence.pages));
    sequence.cached = static_cast<int32_t>(tokens);
    prefixes_.Keep(flow, sequence);
    kv_->Release(&sequence.pages);
    return found;
  }

  int32_t Found(Sequence sequence) {
    const int32_t found = prefixes_.Take(1, &sequence);
    kv_->Release(&sequence.pages);
    return found;
  }

  std::unique_ptr<KvCache> kv_;
  PrefixCache prefixes_;
};

TEST_F(PrefixCacheTest, WholePagesThatBeganTheSameAreFoundAndTheLastTokenIsLeft) {
  EXPECT_EQ(Run(Counting(40)), 0);
  EXPECT_EQ(kv_->idle_pages(), 2) << "the third was not full";
  EXPECT_EQ(kv_->free_pages(), 6);
  EXPECT_EQ(Run(Counting(40)), 32);
  EXPECT_EQ(Run(Counting(33)), 32);
  EXPECT_EQ(Run(Counting(32)), 16) << "its last token has to be computed";
  EXPECT_EQ(Run(Counting(16)), 0);
  EXPECT_EQ(Run(Counting(100)), 32);
  EXPECT_EQ(kv_->idle_pages(), 6);
  EXPECT_EQ(Run(Counting(100)), 96);
}

TEST_F(PrefixCacheTest, WhatDiffersInAnyWayIsNotFound) {
  EXPECT_EQ(Run(Counting(40)), 0);
  EXPECT_EQ(Run(Counting(40), /*flow=*/2), 0) << "another key's";
  Sequence other = Counting(40);
  other.tokens[20] = 999;
  EXPECT_EQ(Run(other), 16);
  Sequence moved = Counting(40);
  moved.positions[1][3] = 1;
  EXPECT_EQ(Run(moved), 0);
  Sequence prefixed = Counting(40);
  prefixed.prefix_slots = 5;
  EXPECT_EQ(prefixes_.Take(1, &prefixed), 0);
}

TEST_F(PrefixCacheTest, WhatNobodyUsesForLongIsGivenUp) {
  EXPECT_EQ(Run(Counting(40)), 0);
  EXPECT_EQ(Run(Counting(40, 100)), 0);
  for (int step = 0; step < 10; ++step) prefixes_.Tick();
  prefixes_.Age(10);
  EXPECT_EQ(kv_->idle_pages(), 4);
  EXPECT_EQ(Run(Counting(20)), 16);  // its first page
  prefixes_.Tick();
  prefixes_.Age(10);
  EXPECT_EQ(kv_->idle_pages(), 1);
  EXPECT_EQ(kv_->free_pages(), 7);
  Sequence holds = Counting(20);
  EXPECT_EQ(prefixes_.Take(1, &holds), 16);
  for (int step = 0; step < 12; ++step) prefixes_.Tick();
  prefixes_.Age(10);
  EXPECT_EQ(kv_->free_pages(), 7) << "it is held";
  kv_->Release(&holds.pages);
  prefixes_.Age(10);
  EXPECT_EQ(kv_->free_pages(), 8);
  EXPECT_EQ(Found(Counting(40)), 0);
}

// Every token of such a context sees all of it.
TEST_F(PrefixCacheTest, ABidirectionalContextIsFoundAsAWhole) {
  Sequence whole = Counting(40);
  whole.bidirectional = 36;
  EXPECT_EQ(Run(whole), 0);
  EXPECT_EQ(Run(whole), 32);
  Sequence longer = Counting(40);
  longer.bidirectional = 37;
  EXPECT_EQ(Run(longer), 0);
  EXPECT_EQ(Run(Counting(40)), 0);
  whole.tokens[39] = 7;  // after the context
  EXPECT_EQ(Run(whole), 32);
}

TEST_F(PrefixCacheTest, PagesAreDroppedWhenTheyAreNeededTheLongestUnusedFirst) {
  EXPECT_EQ(Run(Counting(48, 0)), 0);
  EXPECT_EQ(Run(Counting(48, 1000)), 0);
  EXPECT_EQ(Run(Counting(48, 0)), 32);  // used again: the other is older
  EXPECT_EQ(kv_->free_pages(), 2);
  EXPECT_EQ(Run(Counting(64, 2000)), 0);
  EXPECT_EQ(Found(Counting(48, 0)), 32);
  EXPECT_EQ(Found(Counting(48, 1000)), 16) << "its last pages went first";
  EXPECT_EQ(Found(Counting(64, 2000)), 48);
}

TEST_F(PrefixCacheTest, PagesInUseAreNotDropped) {
  EXPECT_EQ(Run(Counting(64)), 0);
  Sequence running = Counting(64);
  EXPECT_EQ(prefixes_.Take(1, &running), 48);
  EXPECT_EQ(kv_->idle_pages(), 1);
  EXPECT_FALSE(prefixes_.MakeRoom(6)) << "three are held";
  EXPECT_EQ(kv_->idle_pages(), 1) << "nothing is dropped in vain";
  EXPECT_TRUE(prefixes_.MakeRoom(5));
  EXPECT_EQ(kv_->free_pages(), 5);
  kv_->Release(&running.pages);
  EXPECT_EQ(kv_->idle_pages(), 3);
  EXPECT_TRUE(prefixes_.MakeRoom(8));
  EXPECT_EQ(kv_->free_pages(), 8);
  EXPECT_EQ(kv_->idle_pages(), 0);
  EXPECT_EQ(Run(Counting(64)), 0);
}

// Two that ran side by side have computed the same pages; one copy is kept.
TEST_F(PrefixCacheTest, TheSamePagesAreKeptOnce) {
  Sequence a = Counting(40), b = Counting(40);
  for (Sequence* sequence : {&a, &b}) {
    ASSERT_TRUE(kv_->Reserve(40, &sequence->pages));
    sequence->cached = 40;
    prefixes_.Keep(1, *sequence);
  }
  const std::vector<int32_t> first = a.pages;
  kv_->Release(&a.pages);
  kv_->Release(&b.pages);
  EXPECT_EQ(kv_->idle_pages(), 2);
  EXPECT_EQ(kv_->free_pages(), 6);
  Sequence again = Counting(40);
  EXPECT_EQ(prefixes_.Take(1, &again), 32);
  EXPECT_EQ(again.pages, std::vector<int32_t>(first.begin(), first.begin() + 2));
}

// Every page is somebody's, kept or free, whatever comes and goes.
TEST_F(PrefixCacheTest, NoPageIsLost) {
  uint32_t random = 1;
  const auto draw = [&](uint32_t below) {
    random = random * 1664525 + 1013904223;
    return static_cast<int32_t>((random >> 16) % below);
  };
  std::vector<Sequence> running;
  int64_t found = 0;
  for (int i = 0; i < 20000; ++i) {
    const bool ends = !running.empty() && draw(2) == 0;
    if (ends) {
      const size_t at = static_cast<size_t>(draw(static_cast<uint32_t>(running.size())));
      prefixes_.Keep(1, running[at]);
      kv_->Release(&running[at].pages);
      running.erase(running.begin() + static_cast<int64_t>(at));
    } else {
      Sequence sequence = Counting(1 + draw(70), 1000 * draw(3));
      if (draw(3) == 0) sequence.tokens[static_cast<size_t>(sequence.pending() - 1)] = draw(9);
      found += prefixes_.Take(1, &sequence);
      const int64_t tokens = static_cast<int64_t>(sequence.tokens.size());
      const int64_t had = static_cast<int64_t>(sequence.pages.size());
      if (prefixes_.MakeRoom(KvCache::PagesFor(tokens) - had)) {
        ASSERT_TRUE(kv_->Reserve(tokens, &sequence.pages));
        sequence.cached = static_cast<int32_t>(tokens);
        running.push_back(std::move(sequence));
      } else {
        kv_->Release(&sequence.pages);
      }
    }
    std::vector<bool> held(8, false);
    for (const Sequence& sequence : running) {
      for (const int32_t page : sequence.pages) held[static_cast<size_t>(page)] = true;
    }
    const int64_t in_use = std::accumulate(held.begin(), held.end(), int64_t{0});
    ASSERT_EQ(kv_->free_pages() + kv_->idle_pages() + in_use, 8) << i;
  }
  EXPECT_GT(found, 10000);
  for (Sequence& sequence : running) kv_->Release(&sequence.pages);
  EXPECT_TRUE(prefixes_.MakeRoom(8));
}

}  // namespace
}  // namespace qianyi
