#include "runtime/page_worth.h"

#include <gtest/gtest.h>

#include "kernels/kv_layer.h"

namespace qianyi {
namespace {

constexpr uint64_t kMega = 1'000'000;

TEST(PageWorthTest, APageGoesWhenItHasCostWhatItWouldSave) {
  PageWorth worth(kMega);
  uint64_t read = 0;
  for (int i = 0; i < 200; ++i) {
    worth.Count(0, 0.5, read += 1000 * kMega);  // 2 GB/s
    worth.Count(100, 0.5 + 100 * 0.02, read += 1000 * kMega);
  }
  // A step costs it half a millisecond; its 16 tokens would cost 0.32 seconds.
  EXPECT_NEAR(static_cast<double>(worth.steps()), kPageTokens * 0.02 / 0.0005, 5);
}

TEST(PageWorthTest, WhereNothingIsReadOrNothingIsKnownItStays) {
  PageWorth worth(kMega);
  EXPECT_EQ(worth.steps(), PageWorth::kAlways);
  worth.Count(0, 0.5, 1000 * kMega);
  EXPECT_EQ(worth.steps(), PageWorth::kAlways) << "no prompt yet";
  PageWorth resident(kMega);
  resident.Count(50, 2, 5000 * kMega);  // loading
  for (int i = 0; i < 9; ++i) resident.Count(0, 0.5, 5000 * kMega);
  resident.Count(50, 2, 5000 * kMega);
  EXPECT_EQ(resident.steps(), PageWorth::kAlways);
}

}  // namespace
}  // namespace qianyi
