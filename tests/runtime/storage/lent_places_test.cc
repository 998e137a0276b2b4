#include "runtime/storage/lent_places.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "kernels/backend.h"
#include "runtime/memory_size.h"

namespace qianyi {
namespace {

class LentPlacesTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kBlock = 1 << 20;
  ~LentPlacesTest() override { Cpu().free_host(memory_, 64 * kBlock); }

  LentPlaces Places(int blocks, uint64_t bytes) {
    return {std::vector<uint64_t>(blocks, kBlock), memory_, bytes};
  }
  // Which of the blocks have a place now.
  static std::vector<int> Fill(LentPlaces& places, int blocks) {
    std::vector<int> filled;
    for (int i = 0; i < blocks; ++i) {
      if (places.state(i) != LentPlaces::State::kOut) continue;
      if (std::byte* const at = places.Fill(i); at != nullptr) {
        std::memset(at, i + 1, kBlock);
        places.Filled(i, true);
        filled.push_back(i);
      }
    }
    return filled;
  }

  std::byte* const memory_ = static_cast<std::byte*>(Cpu().alloc_host(64 * kBlock));
};

TEST_F(LentPlacesTest, NothingHasAPlaceUntilSomethingIsLent) {
  LentPlaces places = Places(8, 8 * kBlock);
  EXPECT_EQ(places.Fill(0), nullptr);
  places.Limit(kHugePageBytes - 1);
  EXPECT_EQ(places.Fill(0), nullptr) << "whole huge pages only";
  EXPECT_EQ(places.state(0), LentPlaces::State::kOut);
}

TEST_F(LentPlacesTest, HoweverMuchIsLentTheBlocksAreSpreadEvenly) {
  for (const int lent : {2, 4, 6, 10, 16, 30}) {
    LentPlaces places = Places(40, 40 * kBlock);
    places.Limit(lent * kBlock);
    const std::vector<int> filled = Fill(places, 40);
    ASSERT_EQ(filled.size(), static_cast<size_t>(lent));
    int longest = filled.front() + 40 - filled.back();
    for (size_t i = 1; i < filled.size(); ++i) {
      longest = std::max(longest, filled[i] - filled[i - 1]);
    }
    EXPECT_LE(longest, 2 * 64 / lent + 1) << lent;
    EXPECT_EQ(places.bytes_here(), lent * kBlock);
  }
}

TEST_F(LentPlacesTest, TheSameBlocksStayWhenMoreIsLent) {
  LentPlaces places = Places(40, 40 * kBlock);
  places.Limit(10 * kBlock);
  const std::vector<int> first = Fill(places, 40);
  places.Limit(20 * kBlock);
  EXPECT_EQ(Fill(places, 40).size(), 10u);
  for (const int block : first) {
    EXPECT_TRUE(places.here(block));
    EXPECT_EQ(places.at(block)[kBlock - 1], static_cast<std::byte>(block + 1));
  }
}

TEST_F(LentPlacesTest, WithLessTheLastLeaveAndTheirMemoryGoesBack) {
  LentPlaces places = Places(20, 20 * kBlock);
  places.Limit(20 * kBlock);
  ASSERT_EQ(Fill(places, 20).size(), 20u);
  const uint64_t before = ResidentBytes();
  EXPECT_FALSE(places.Drops(20 * kBlock));
  EXPECT_TRUE(places.Drops(20 * kBlock - 1));
  places.Limit(7 * kBlock);  // whole huge pages: six blocks
  EXPECT_EQ(places.bytes_here(), 6 * kBlock);
  EXPECT_LE(ResidentBytes() + 13 * kBlock, before);
  EXPECT_FALSE(places.Drops(6 * kBlock));
  for (int i = 0; i < 20; ++i) {
    if (places.here(i)) {
      EXPECT_EQ(places.at(i)[7], static_cast<std::byte>(i + 1));
    }
  }
}

TEST_F(LentPlacesTest, ABlockThatCouldNotBeReadIsOutAgain) {
  LentPlaces places = Places(4, 4 * kBlock);
  places.Limit(4 * kBlock);
  ASSERT_NE(places.Fill(2), nullptr);
  EXPECT_TRUE(places.Drops(0)) << "on its way";
  places.Filled(2, false);
  EXPECT_FALSE(places.Drops(0));
  EXPECT_EQ(places.bytes_here(), 0u);
  EXPECT_NE(places.Fill(2), nullptr);
}

TEST_F(LentPlacesTest, MoreBlocksThanRoom) {
  LentPlaces places = Places(40, 5 * kBlock);
  places.Limit(1 << 30);
  EXPECT_EQ(Fill(places, 40).size(), 5u);
}

}  // namespace
}  // namespace qianyi
