#include "runtime/kv_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "runtime/memory_size.h"

namespace qianyi {
namespace {

const KvSpec kSpec = {.layers = 3, .heads = 2, .key_dim = 8, .value_dim = 4};

TEST(KvCacheTest, PagesAreCountedByTheirBytes) {
  // 3 layers x 16 tokens x 2 heads x (8 + 4) elements.
  EXPECT_EQ(KvCache::PageBytes(kSpec, DType::kF32), 3u * 16 * 2 * 12 * 4);
  EXPECT_EQ(KvCache::PageBytes(kSpec, DType::kF16), 3u * 16 * 2 * 12 * 2);
  // And a scale for each key and value.
  EXPECT_EQ(KvCache::PageBytes(kSpec, DType::kI8), 3u * 16 * 2 * (12 + 2 * 4));
  KvSpec latent = kSpec;
  latent.values_in_keys = true;
  EXPECT_EQ(KvCache::PageBytes(latent, DType::kI8), 3u * 16 * 2 * (8 + 4));
  EXPECT_EQ(KvCache::PagesFor(1), 1);
  EXPECT_EQ(KvCache::PagesFor(16), 1);
  EXPECT_EQ(KvCache::PagesFor(17), 2);
}

TEST(KvCacheTest, ReserveIsAllOrNothingAndReleaseGivesBack) {
  auto cache = KvCache::Create(kSpec, DType::kF16, 4, Cpu());
  ASSERT_TRUE(cache.ok()) << cache.status();
  std::vector<int32_t> a, b;
  EXPECT_TRUE((*cache)->Reserve(33, &a));
  EXPECT_EQ(a.size(), 3u);
  EXPECT_FALSE((*cache)->Reserve(17, &b));
  EXPECT_TRUE(b.empty());
  EXPECT_EQ((*cache)->free_pages(), 1);
  EXPECT_TRUE((*cache)->Reserve(48, &a));  // the third page has room
  EXPECT_EQ(a.size(), 3u);
  EXPECT_TRUE((*cache)->Reserve(64, &a));
  EXPECT_EQ(std::set<int32_t>(a.begin(), a.end()).size(), 4u);
  (*cache)->Release(&a);
  EXPECT_EQ((*cache)->free_pages(), 4);
  EXPECT_TRUE(a.empty());
}

TEST(KvCacheTest, LayersDoNotOverlap) {
  auto cache = KvCache::Create(kSpec, DType::kF16, 5, Cpu());
  ASSERT_TRUE(cache.ok());
  const KvLayer first = (*cache)->layer(0);
  EXPECT_EQ(first.page_bytes * 3, KvCache::PageBytes(kSpec, DType::kF16));
  EXPECT_EQ((*cache)->layer(1).pages, first.pages + 5 * first.page_bytes);
  EXPECT_EQ((*cache)->layer(2).pages, first.pages + 10 * first.page_bytes);
}

TEST(KvCacheTest, MappedLayersAreEvenlySpacedInAMemoryOfTheirOwn) {
  const KvSpec spec = {.layers = 6, .heads = 2, .key_dim = 8, .value_dim = 4};
  auto cache = KvCache::Create(spec, DType::kF16, 5, Cpu(), /*shared_pages=*/2,
                               /*mapped_layers=*/2);
  ASSERT_TRUE(cache.ok());
  const size_t layer_bytes = 7 * (*cache)->layer(0).page_bytes;
  const auto at = [&](int layer) { return (*cache)->layer(layer).pages; };
  for (const auto& [layer, before] : {std::pair(1, 0), {3, 1}, {4, 3}, {5, 2}}) {
    EXPECT_EQ(at(layer), at(before) + layer_bytes) << layer;
  }
  EXPECT_NE(at(2), at(4) + layer_bytes);
  // Every page of every layer keeps what is written there.
  std::vector<std::byte> bytes((*cache)->page_bytes());
  for (int32_t page = 0; page < 5; ++page) {
    std::fill(bytes.begin(), bytes.end(), std::byte(page + 1));
    (*cache)->CopyIn(page, bytes);
  }
  for (int32_t page = 0; page < 5; ++page) {
    (*cache)->CopyOut(page, bytes);
    for (const std::byte byte : bytes) ASSERT_EQ(byte, std::byte(page + 1));
  }
}

TEST(KvCacheTest, SaysWhenThereIsNoRoom) {
  const KvSpec huge = {.layers = 1024, .heads = 1024, .key_dim = 1024, .value_dim = 1024};
  auto cache = KvCache::Create(huge, DType::kF32, 10000, Cpu());  // 1.3 PB
  EXPECT_EQ(cache.status().code(), absl::StatusCode::kResourceExhausted);
}

// Whole pages are held by both and freed by the last; the one filled in part is copied.
TEST(KvCacheTest, SequencesShareTheWholePagesOfWhatTheyBeginWith) {
  auto cache = KvCache::Create(kSpec, DType::kF32, 8, Cpu());
  ASSERT_TRUE(cache.ok());
  std::vector<int32_t> first, second, third;
  ASSERT_TRUE((*cache)->Reserve(60, &first));  // 4 pages
  ASSERT_TRUE((*cache)->ReserveShared(first, 40, 60, &second));
  EXPECT_EQ((*cache)->free_pages(), 2);
  EXPECT_EQ(std::vector<int32_t>(second.begin(), second.begin() + 2),
            std::vector<int32_t>(first.begin(), first.begin() + 2));
  EXPECT_NE(second[2], first[2]);
  EXPECT_FALSE((*cache)->ReserveShared(first, 40, 100, &third));
  EXPECT_TRUE(third.empty());
  EXPECT_EQ((*cache)->free_pages(), 2);

  const KvLayer layer = (*cache)->layer(1);
  layer.pages[first[2] * layer.page_bytes + 5] = std::byte{42};
  (*cache)->CopyShared(first, 40, second);
  EXPECT_EQ(layer.pages[second[2] * layer.page_bytes + 5], std::byte{42});

  (*cache)->Release(&first);
  EXPECT_EQ((*cache)->free_pages(), 4) << "two pages are still the second's";
  (*cache)->Release(&second);
  EXPECT_EQ((*cache)->free_pages(), 8);
}

// Latent attention stores what is key and value once.
TEST(KvCacheTest, ValuesInKeysTakeNoRoom) {
  KvSpec latent = {.layers = 3, .heads = 1, .key_dim = 40, .value_dim = 32, .values_in_keys = true};
  EXPECT_EQ(latent.elements_per_token(), 3 * 40);
  EXPECT_EQ(KvCache::PageBytes(latent, DType::kF16), size_t{3} * kPageTokens * 40 * 2);
  auto cache = KvCache::Create(latent, DType::kF16, 4, Cpu());
  ASSERT_TRUE(cache.ok()) << cache.status();
  EXPECT_TRUE((*cache)->layer(1).values_in_keys);
  EXPECT_EQ((*cache)->layer(1).page_bytes, size_t{kPageTokens} * 40 * 2);
}

// ---- What nobody needs is lent ----

class LendingKvCacheTest : public ::testing::Test {
 protected:
  static constexpr int64_t kPages = 8192;  // 12 MiB in each of three layers

  void SetUp() override {
    cache_->Lend([this](uint64_t bytes) { lent_.push_back(bytes); });
  }
  void Write(const std::vector<int32_t>& pages) {
    for (int i = 0; i < kSpec.layers; ++i) {
      const KvLayer layer = cache_->layer(i);
      for (const int32_t page : pages) {
        std::memset(layer.pages + page * layer.page_bytes, 1, layer.page_bytes);
      }
    }
  }

  const std::unique_ptr<KvCache> cache_ = *KvCache::Create(kSpec, DType::kF32, kPages, Cpu());
  std::vector<uint64_t> lent_;
};

TEST_F(LendingKvCacheTest, AllOfItWhileNothingRuns) {
  ASSERT_EQ(lent_.size(), 1u);
  EXPECT_LE(lent_[0], cache_->page_bytes() * kPages);
  EXPECT_GE(lent_[0] + 3 * 2 * kHugePageBytes, cache_->page_bytes() * kPages);
  cache_->LendIdle();
  EXPECT_EQ(lent_.size(), 1u) << "nothing has changed";
}

TEST_F(LendingKvCacheTest, LessBeforePagesAreGivenOutAndMoreAfterTheyCameBack) {
  const uint64_t at_first = ResidentBytes();
  std::vector<int32_t> first, second, third;
  ASSERT_TRUE(cache_->Reserve(3000 * kPageTokens, &first));
  ASSERT_EQ(lent_.size(), 2u);
  EXPECT_LE(lent_[1] + cache_->page_bytes() * 3000, lent_[0] + 3 * kHugePageBytes);
  ASSERT_TRUE(cache_->Reserve(4000 * kPageTokens, &second));
  EXPECT_LT(lent_.back(), lent_[1]);
  Write(first);
  Write(second);
  EXPECT_GE(ResidentBytes(), at_first + cache_->page_bytes() * 7000);

  cache_->Release(&second);
  EXPECT_EQ(lent_.size(), 3u) << "only when it is asked to";
  cache_->LendIdle();
  EXPECT_EQ(lent_.back(), lent_[1]);
  EXPECT_LE(ResidentBytes(), at_first + cache_->page_bytes() * 3000 + 4 * kHugePageBytes);

  // From the first free page on: what fits below the first's last page lends nothing less.
  ASSERT_TRUE(cache_->Reserve(500 * kPageTokens, &second));
  cache_->Release(&first);
  ASSERT_TRUE(cache_->Reserve(2000 * kPageTokens, &third));
  const size_t changes = lent_.size();
  cache_->LendIdle();
  EXPECT_EQ(lent_.size(), changes) << "the second lies above";
  cache_->Release(&second);
  cache_->LendIdle();
  EXPECT_GT(lent_.back(), lent_[1]);
  for (const int32_t page : third) EXPECT_LT(page, 2000);
}

TEST_F(LendingKvCacheTest, PagesThatAreKeptAreInUse) {
  std::vector<int32_t> pages;
  ASSERT_TRUE(cache_->Reserve(4000 * kPageTokens, &pages));
  const int32_t last = pages.back();
  cache_->Keep(last);
  cache_->Release(&pages);
  cache_->LendIdle();
  EXPECT_EQ(lent_.size(), 2u);
  cache_->Drop(last);
  cache_->LendIdle();
  EXPECT_EQ(lent_.back(), lent_[0]);
}

}  // namespace
}  // namespace qianyi
