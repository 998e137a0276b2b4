#include "runtime/storage/synth_router.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

namespace qianyi {
namespace {

// How often each expert is among the best, most often first.
std::vector<double> Chosen(const std::vector<float>& corrections, int64_t routed) {
  constexpr int kTokens = 20000;
  std::mt19937 random(5);
  std::normal_distribution<double> normal;
  std::vector<double> counts(corrections.size(), 0);
  std::vector<double> choice(corrections.size());
  std::vector<int> order(corrections.size());
  for (int t = 0; t < kTokens; ++t) {
    for (size_t e = 0; e < choice.size(); ++e) {
      choice[e] = 1 / (1 + std::exp(-normal(random))) + corrections[e];
    }
    std::iota(order.begin(), order.end(), 0);
    std::partial_sort(order.begin(), order.begin() + routed, order.end(),
                      [&](int a, int b) { return choice[a] > choice[b]; });
    for (int64_t j = 0; j < routed; ++j) counts[order[j]] += 1.0 / kTokens;
  }
  std::sort(counts.rbegin(), counts.rend());
  return counts;
}

TEST(SynthRouterTest, PopularityFallsAsRankToThePower) {
  for (const double skew : {0.5, 1.0, 1.5}) {
    const std::vector<double> chosen = Chosen(RouterCorrections(128, 8, skew, 99), 8);
    // A number of tokens in a row is no threshold, so this is about right, not exact.
    EXPECT_NEAR(std::log(chosen[9] / chosen[79]), skew * std::log(80.0 / 10.0), 0.25) << skew;
    EXPECT_LE(chosen[0], 1.0);
  }
}

TEST(SynthRouterTest, TheKeyDecidesWhoIsPopular) {
  const std::vector<float> one = RouterCorrections(64, 4, 1, 1);
  EXPECT_EQ(RouterCorrections(64, 4, 1, 1), one);
  std::vector<float> other = RouterCorrections(64, 4, 1, 2);
  EXPECT_NE(other, one);
  std::vector<float> sorted = one;
  std::sort(sorted.begin(), sorted.end());
  std::sort(other.begin(), other.end());
  EXPECT_EQ(sorted, other);
  // As many as are chosen: all alike, however steep.
  for (const float c : RouterCorrections(8, 8, 3, 1)) EXPECT_TRUE(std::isfinite(c));
}

}  // namespace
}  // namespace qianyi
