#include "runtime/storage/expert_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "tests/runtime/faulty_reader.h"
#include "xxhash.h"

namespace qianyi {
namespace {

constexpr int kExperts = 24;

// Experts of three blocks of many sizes in one file in memory.
class ExpertCacheTest : public ::testing::Test {
 protected:
  void Make(int slots, FaultFn fault = nullptr) {
    std::mt19937 random(7);
    uint64_t offset = 0;
    for (int e = 0; e < kExperts; ++e) {
      ExpertCache::Expert expert;
      for (int part = 0; part < 3; ++part) {
        const uint64_t bytes = 1 + random() % 60000;
        expert.push_back({{0, offset, bytes, 0, 0, 16}, "expert " + std::to_string(e)});
        offset += (bytes + 4095) / 4096 * 4096;
      }
      experts_.push_back(std::move(expert));
    }
    file_.resize(offset);
    for (auto& byte : file_) byte = static_cast<std::byte>(random());
    for (ExpertCache::Expert& expert : experts_) {
      for (ExpertCache::Part& part : expert) {
        part.block.checksum = XXH3_64bits(file_.data() + part.block.offset, part.block.bytes);
      }
    }
    memory_.reset(static_cast<std::byte*>(
        std::aligned_alloc(4096, slots * ExpertCache::SlotBytes(experts_))));
    std::vector<std::unique_ptr<Reader>> readers;
    readers.push_back(std::make_unique<MemoryReader>(file_));
    if (fault) readers[0] = std::make_unique<FaultyReader>(std::move(readers[0]), fault);
    cache_ = std::make_unique<ExpertCache>(experts_, memory_.get(), slots, std::move(readers));
  }

  // A layer that needs `wanted`: each comes once, and whole.
  absl::Status Layer(const std::vector<int32_t>& wanted) {
    cache_->Want(wanted);
    std::vector<int32_t> seen;
    while (seen.size() < wanted.size()) {
      const auto expert = cache_->Next();
      if (!expert.ok()) return expert.status();
      for (int part = 0; part < 3; ++part) {
        const Block& block = experts_[*expert][part].block;
        EXPECT_EQ(
            std::memcmp(cache_->Data(*expert, part), file_.data() + block.offset, block.bytes), 0)
            << "expert " << *expert << " part " << part;
      }
      seen.push_back(*expert);
    }
    std::vector<int32_t> sorted = wanted;
    std::sort(sorted.begin(), sorted.end());
    std::sort(seen.begin(), seen.end());
    EXPECT_EQ(seen, sorted);
    return absl::OkStatus();
  }

  uint64_t Bytes(int expert) const {
    uint64_t bytes = 0;
    for (const auto& part : experts_[expert]) bytes += (part.block.bytes + 4095) / 4096 * 4096;
    return bytes;
  }

  struct Free {
    void operator()(std::byte* data) const { std::free(data); }
  };
  std::vector<ExpertCache::Expert> experts_;
  std::vector<std::byte> file_;
  std::unique_ptr<std::byte, Free> memory_;
  std::unique_ptr<ExpertCache> cache_;
};

TEST_F(ExpertCacheTest, WhatFitsIsReadOnce) {
  Make(kExperts);
  uint64_t all = 0;
  for (int e = 0; e < kExperts; ++e) all += Bytes(e);
  for (int step = 0; step < 5; ++step) {
    cache_->BeginStep();
    for (int layer = 0; layer < 4; ++layer) {
      std::vector<int32_t> wanted;
      for (int e = 0; e < 6; ++e) wanted.push_back(layer * 6 + e);
      ASSERT_TRUE(Layer(wanted).ok());
    }
  }
  const ExpertStats stats = cache_->stats();
  EXPECT_TRUE(cache_->holds_all());
  EXPECT_EQ(stats.uses, 5u * kExperts);
  EXPECT_EQ(stats.hits, 4u * kExperts);
  EXPECT_EQ(stats.read_bytes, all);
  EXPECT_EQ(stats.used_bytes, 5 * all);
  EXPECT_EQ(stats.hit_bytes, 4 * all);
}

// With one place, and with fewer than a layer needs.
TEST_F(ExpertCacheTest, AnyRoomWillDo) {
  for (const int slots : {1, 2, 3, 7}) {
    experts_.clear();
    cache_.reset();
    Make(slots);
    std::mt19937 random(slots);
    for (int step = 0; step < 40; ++step) {
      cache_->BeginStep();
      std::vector<int32_t> wanted;
      for (int e = 0; e < kExperts; ++e) {
        if (random() % 3 == 0) wanted.push_back(e);
      }
      ASSERT_TRUE(Layer(wanted).ok());
      if (step % 2 == 0) cache_->Foresee(std::vector<int32_t>{step % kExperts, 3, 5, 8});
    }
    const ExpertStats stats = cache_->stats();
    EXPECT_GE(stats.read_bytes, stats.used_bytes - stats.hit_bytes);
    EXPECT_LE(stats.read_bytes, 1.06 * (stats.used_bytes - stats.hit_bytes));
  }
}

// A scan over many that are needed once does not drive out the few that are needed always.
TEST_F(ExpertCacheTest, ThePopularStay) {
  Make(6);
  const std::vector<int32_t> popular = {0, 9, 17, 23};
  for (int step = 0; step < 4; ++step) {
    cache_->BeginStep();
    ASSERT_TRUE(Layer(popular).ok());
  }
  const uint64_t hits = cache_->stats().hits;
  for (int step = 0; step < 10; ++step) {
    cache_->BeginStep();
    ASSERT_TRUE(Layer({1 + step % 8}).ok());
    ASSERT_TRUE(Layer({10 + step % 6}).ok());
    ASSERT_TRUE(Layer(popular).ok());
  }
  EXPECT_GE(cache_->stats().hits - hits, 10u * popular.size());
}

// What was popular long ago makes room in the end.
TEST_F(ExpertCacheTest, PopularityFades) {
  Make(4);
  for (int step = 0; step < 200; ++step) {
    cache_->BeginStep();
    ASSERT_TRUE(Layer({0, 1, 2, 3}).ok());
  }
  for (int step = 0; step < 700; ++step) {
    cache_->BeginStep();
    ASSERT_TRUE(Layer({10, 11, 12, 13}).ok());
  }
  const uint64_t hits = cache_->stats().hits;
  cache_->BeginStep();
  ASSERT_TRUE(Layer({10, 11, 12, 13}).ok());
  EXPECT_EQ(cache_->stats().hits, hits + 4);
}

TEST_F(ExpertCacheTest, ReadingAheadIsAMissThatNobodyWaitsFor) {
  Make(12);
  // Enough is read first that a guess is allowed.
  for (int round = 0; round < 4; ++round) {
    for (int e = 0; e < kExperts; ++e) {
      cache_->BeginStep();
      ASSERT_TRUE(Layer({e}).ok());
    }
  }
  ASSERT_TRUE(Layer({20}).ok());
  const ExpertStats before = cache_->stats();  // first: a guess may be read at once
  cache_->Foresee(std::vector<int32_t>{0});
  for (int tries = 0; tries < 2000 && cache_->stats().read_bytes == before.read_bytes; ++tries) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  ASSERT_TRUE(Layer({0}).ok());
  const ExpertStats after = cache_->stats();
  EXPECT_EQ(after.foreseen, 1u);
  EXPECT_EQ(after.foreseen_used, 1u);
  EXPECT_EQ(after.hits, before.hits);
  EXPECT_EQ(after.read_bytes - before.read_bytes, Bytes(0));
  ASSERT_TRUE(Layer({0}).ok());
  EXPECT_EQ(cache_->stats().hits, before.hits + 1);
}

// Guesses that are always wrong soon end: at most a twentieth of what is read is in vain.
TEST_F(ExpertCacheTest, WrongGuessesEnd) {
  Make(4);
  for (int step = 0; step < 400; ++step) {
    cache_->BeginStep();
    const int32_t wanted = step % 12;
    ASSERT_TRUE(Layer({wanted}).ok());
    cache_->Foresee(std::vector<int32_t>{12 + wanted});
  }
  const ExpertStats stats = cache_->stats();
  EXPECT_LE(stats.read_bytes, 1.06 * (stats.used_bytes - stats.hit_bytes));
}

TEST_F(ExpertCacheTest, AFailedReadEndsTheLayerAndIsTriedAgain) {
  std::atomic<bool> broken = true;
  uint64_t bad_offset = 0;
  Make(6, [&](uint64_t offset) {
    Fault fault;
    if (broken && offset == bad_offset) fault.status = absl::DataLossError("EIO");
    return fault;
  });
  bad_offset = experts_[4][1].block.offset;
  const absl::Status failed = Layer({2, 4, 6});
  EXPECT_EQ(failed.code(), absl::StatusCode::kDataLoss);
  EXPECT_NE(failed.message().find("expert 4"), absl::string_view::npos) << failed;
  EXPECT_TRUE(Layer({2, 6}).ok());
  EXPECT_FALSE(Layer({4}).ok());
  broken = false;
  EXPECT_TRUE(Layer({2, 4, 6}).ok());
}

TEST_F(ExpertCacheTest, DamageIsFound) {
  Make(6);
  cache_.reset();
  experts_[3][2].block.checksum ^= 1;
  std::vector<std::unique_ptr<Reader>> readers;
  readers.push_back(std::make_unique<MemoryReader>(file_));
  cache_ = std::make_unique<ExpertCache>(experts_, memory_.get(), 6, std::move(readers));
  const absl::Status failed = Layer({1, 3});
  EXPECT_EQ(failed.code(), absl::StatusCode::kDataLoss);
  EXPECT_NE(failed.message().find("checksum"), absl::string_view::npos) << failed;
  EXPECT_TRUE(Layer({1, 2}).ok());
}

TEST_F(ExpertCacheTest, StopsWithReadsUnderWay) {
  for (int i = 0; i < 6; ++i) {
    experts_.clear();
    cache_.reset();
    Make(8);
    cache_->Want(std::vector<int32_t>{1, 2, 3, 4, 5, 6, 7});
    if (i % 2 == 0) {
      ASSERT_TRUE(cache_->Next().ok());
    }
    cache_.reset();
  }
}

}  // namespace
}  // namespace qianyi
