#include "runtime/sampler_math.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include "kernels/sampling.h"
#include "tests/support/floats.h"

namespace qianyi {
namespace {

using testing::kInfinity;
using testing::kNan;

// Known answers published with the paper's implementation (Random123).
TEST(Philox, GivesThePublishedNumbers) {
  using Words = std::array<uint32_t, 4>;
  EXPECT_EQ(Philox({0, 0, 0, 0}, {0, 0}), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(Philox({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

// How evenly `values` of [0, 1) are spread.
double ChiSquareOf64Bins(const std::vector<double>& values) {
  std::vector<int> bins(64);
  for (const double value : values) ++bins.at(static_cast<size_t>(value * 64));
  const double expected = static_cast<double>(values.size()) / 64;
  double sum = 0;
  for (const int count : bins) sum += (count - expected) * (count - expected) / expected;
  return sum;
}
constexpr double kUneven = 120;  // 63 degrees of freedom: above this once in 10^5
constexpr double kTooEven = 25;

TEST(DrawKey, DependsOnBothNumbersAndIsSpreadEvenly) {
  EXPECT_EQ(DrawKey(1, 2), DrawKey(1, 2));
  EXPECT_NE(DrawKey(1, 2), DrawKey(2, 1));
  EXPECT_NE(DrawKey(1, 2), DrawKey(uint64_t{1} << 32 | 1, 2));
  EXPECT_NE(DrawKey(1, 2), DrawKey(1, uint64_t{1} << 32 | 2));
  for (const int shift : {0, 32}) {
    std::vector<double> parts;
    for (uint64_t i = 0; i < 64000; ++i) {
      parts.push_back(static_cast<double>(static_cast<uint32_t>(DrawKey(42, i) >> shift)) *
                      0x1p-32);
    }
    EXPECT_LT(ChiSquareOf64Bins(parts), kUneven);
    EXPECT_GT(ChiSquareOf64Bins(parts), kTooEven);
  }
}

// Of neighbours in a vocabulary in one draw, and of one token in draw after draw; so are the bits
// below those of the noise.
TEST(RaceNoise, IsSpreadEvenly) {
  const auto check = [](auto number_of) {
    std::vector<double> upper, lower, differences;
    double last = 0.0;
    for (uint32_t i = 0; i < 64000; ++i) {
      const auto [key, token] = number_of(i);
      const uint32_t noise = RaceNoise(key, token);
      const double u = noise * 0x1p-32;
      EXPECT_LE(RaceAtLeast(noise), u);
      EXPECT_GT(RaceAtLeast(noise) + 0x1p-24f, u);
      const double finish = RaceFinish(key, noise);
      EXPECT_GE(finish, static_cast<double>(RaceAtLeast(noise)));
      upper.push_back(u);
      lower.push_back((1.0 - std::exp(-finish)) * 0x1p10 -
                      std::floor((1.0 - std::exp(-finish)) * 0x1p10));
      differences.push_back(u >= last ? u - last : u - last + 1.0);
      last = u;
    }
    for (const auto& values : {upper, lower, differences}) {
      EXPECT_LT(ChiSquareOf64Bins(values), kUneven);
      EXPECT_GT(ChiSquareOf64Bins(values), kTooEven);
    }
  };
  const uint64_t key = DrawKey(7, 1);
  check([key](uint32_t i) { return std::pair(key, i); });
  check([](uint32_t i) { return std::pair(DrawKey(7, i), uint32_t{4321}); });
}

TEST(SoftmaxWeights, AreExponentialsToTwoUnits) {
  std::vector<float> values;
  for (float x = 0; x > -87.3f; x -= 0.00137f) values.push_back(x);
  std::vector<float> weights(values.size());
  SoftmaxWeights(values, 0.0f, 1.0f, weights.data());
  for (size_t i = 0; i < values.size(); ++i) {
    const double want = std::exp(static_cast<double>(values[i]));
    ASSERT_NEAR(weights[i] / want, 1.0, 2.4e-7) << values[i];
  }
  EXPECT_EQ(weights[0], 1.0f);
}

TEST(SoftmaxWeights, HandleEveryKindOfNumber) {
  const std::vector<float> values = {3.0f, -kInfinity, kNan, -1e30f, 1.0f, 3.0f};
  std::vector<float> weights(values.size());
  SoftmaxWeights(values, 3.0f, 1e-30f, weights.data());
  EXPECT_EQ(weights, (std::vector<float>{1, 0, 0, 0, 0, 1}));
  const std::vector<float> infinite = {3.0f, kInfinity, kNan, -kInfinity, kInfinity, 0.0f};
  SoftmaxWeights(infinite, kInfinity, 1.0f, weights.data());
  EXPECT_EQ(weights, (std::vector<float>{0, 1, 0, 0, 1, 0}));
}

TEST(Largest, SkipsNanAndTakesTheLowestOfEquals) {
  std::mt19937 random(1);
  for (const size_t size : {1u, 15u, 16u, 17u, 511u, 512u, 513u, 3000u}) {
    for (int round = 0; round < 30; ++round) {
      std::vector<float> values(size);
      for (float& value : values) {
        value = random() % 5 == 0 ? kNan : static_cast<float>(static_cast<int>(random() % 9) - 4);
      }
      float best = -kInfinity;
      int32_t index = 0;
      for (size_t i = 0; i < size; ++i) {
        if (values[i] > best) {
          best = values[i];
          index = static_cast<int32_t>(i);
        }
      }
      ASSERT_EQ(Largest(values), best);
      ASSERT_EQ(IndexOfLargest(values), index);
    }
  }
  EXPECT_EQ(IndexOfLargest(std::vector<float>(40, kNan)), 0);
  EXPECT_EQ(Largest(std::vector<float>(40, kNan)), -kInfinity);
  EXPECT_EQ(IndexOfLargest(std::vector<float>{-kInfinity, kInfinity, kInfinity}), 1);
}

TEST(KthLargest, IsTheSortedOne) {
  std::mt19937 random(2);
  for (const size_t size : {1u, 63u, 64u, 65u, 700u, 5000u}) {
    for (int round = 0; round < 20; ++round) {
      std::vector<float> values(size);
      for (float& value : values) {
        // Few distinct values in half of the rounds, and infinities.
        value = round % 2 ? static_cast<float>(random() % 4)
                          : static_cast<float>(random()) * 1e-6f - 2000;
        if (random() % 50 == 0) value = random() % 2 ? kInfinity : -kInfinity;
      }
      std::vector<float> sorted = values;
      std::sort(sorted.begin(), sorted.end(), std::greater<>());
      std::vector<float> scratch(size);
      for (int64_t k : {int64_t{1}, int64_t{2}, int64_t{50}, static_cast<int64_t>(size) / 2,
                        static_cast<int64_t>(size)}) {
        k = std::clamp<int64_t>(k, 1, static_cast<int64_t>(size));
        ASSERT_EQ(KthLargest(values, k, scratch.data()), sorted[static_cast<size_t>(k - 1)]);
      }
    }
  }
}

TEST(KthLargest, CountsNanAsMinusInfinity) {
  std::vector<float> scratch(3);
  const std::vector<float> values = {kNan, 1.0f, kNan};
  EXPECT_EQ(KthLargest(values, 1, scratch.data()), 1.0f);
  EXPECT_EQ(KthLargest(values, 2, scratch.data()), -kInfinity);
}

// Sorts, and keeps while the sum before does not exceed the mass.
std::vector<bool> NaiveCut(const std::vector<float>& weights, double mass) {
  std::vector<size_t> order(weights.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return weights[a] > weights[b]; });
  std::vector<bool> kept(weights.size());
  double before = 0;
  for (const size_t i : order) {
    if (before > mass) break;
    kept[i] = true;
    before += static_cast<double>(weights[i]);
  }
  return kept;
}

TEST(CutByMass, KeepsWhatSortingWouldKeep) {
  std::mt19937 random(3);
  for (int round = 0; round < 2000; ++round) {
    std::vector<float> weights(1 + random() % 300);
    for (float& weight : weights) {
      // Multiples of 1/1024, whose sums are exact, or of wide range.
      weight = round % 2 ? static_cast<float>(random() % 1025) / 1024
                         : std::exp(-static_cast<float>(random() % 4000) / 50);
    }
    const double sum = Sum(weights);
    const double mass = sum * (static_cast<double>(random() % 1000) + 0.5) / 1000;
    std::vector<float> scratch(weights.size());
    const MassCut cut = CutByMass(weights, mass, scratch.data());
    const std::vector<bool> want = NaiveCut(weights, mass);
    int64_t equal = cut.equal;
    for (size_t i = 0; i < weights.size(); ++i) {
      const bool kept = weights[i] > cut.floor || (weights[i] == cut.floor && equal-- > 0);
      // What sorts behind everything with no weight is kept or not: it is never drawn.
      if (weights[i] > 0) {
        ASSERT_EQ(kept, want[i]) << weights[i] << " " << cut.floor;
      }
    }
  }
}

TEST(CutByMass, ExactHitsKeepTheNext) {
  const std::vector<float> weights = {0.25f, 0.5f, 0.25f, 1.0f};
  std::vector<float> scratch(4);
  // 1.0 comes before 0.5 and does not exceed 1: 0.5 stays; 1.5 before the quarters does.
  const MassCut cut = CutByMass(weights, 1.0, scratch.data());
  EXPECT_EQ(cut.floor, 0.5f);
  EXPECT_EQ(cut.equal, 1);
  // All of the mass: everything stays.
  EXPECT_EQ(CutByMass(weights, 2.0, scratch.data()).floor, 0.0f);
}

// By its definition: a logarithm for each.
TEST(Race, IsWonByTheFirstToFinish) {
  std::mt19937 random(4);
  for (int round = 0; round < 500; ++round) {
    std::vector<float> weights(1 + random() % 2000);
    for (float& weight : weights) {
      weight = random() % 3 == 0 ? 0.0f : std::exp(-static_cast<float>(random() % 80));
    }
    weights[random() % weights.size()] = 1.0f;
    std::vector<int32_t> tokens(weights.size());
    for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int32_t>(3 * i + 1);
    const bool listed = round % 2 == 1;
    const uint64_t key = DrawKey(9, static_cast<uint64_t>(round));
    std::vector<std::pair<double, int64_t>> finishes;
    for (size_t i = 0; i < weights.size(); ++i) {
      if (weights[i] == 0) continue;
      const uint32_t noise = RaceNoise(key, static_cast<uint32_t>(listed ? tokens[i] : i));
      finishes.emplace_back(RaceFinish(key, noise) / static_cast<double>(weights[i]), i);
    }
    std::sort(finishes.begin(), finishes.end());
    const int32_t* const of = listed ? tokens.data() : nullptr;
    const RaceWinner winner = Race(weights, of, key);
    ASSERT_EQ(winner.index, finishes[0].second);
    ASSERT_EQ(winner.finish, finishes[0].first);
    const RaceWinner second = Race(weights, of, key, winner.index);
    ASSERT_EQ(second.index, finishes.size() > 1 ? finishes[1].second : -1);
  }
}

TEST(Race, NeverTakesAWeightOfZero) {
  for (uint64_t i = 0; i < 100; ++i) {
    EXPECT_EQ(Race(std::vector<float>{0, 0, 1, 0}, nullptr, DrawKey(1, i)).index, 2);
    EXPECT_EQ(Race(std::vector<float>{0, 1e-38f, 0, 0}, nullptr, DrawKey(1, i)).index, 1);
  }
  std::vector<float> sparse(5000, 0.0f);
  sparse[700] = 1e-30f;
  EXPECT_EQ(Race(sparse, nullptr, 5).index, 700);
  EXPECT_EQ(Race(sparse, nullptr, 5, 700).index, -1);
  EXPECT_EQ(Race(std::vector<float>(5000, 0.0f), nullptr, 5).index, -1);
  EXPECT_EQ(Race(std::vector<float>{}, nullptr, 5).index, -1);
}

// A token of one part in a million wins as often as that: of 4e6 draws four, give or take.
TEST(Race, GivesRareTokensTheirShare) {
  std::vector<float> weights(64, 1e-8f);
  weights[5] = 1.0f;
  int rare = 0;
  for (uint64_t i = 0; i < 4'000'000; ++i) {
    rare += Race(weights, nullptr, i * 0x9e3779b97f4a7c15u).index != 5 ? 1 : 0;
  }
  EXPECT_GE(rare, 1);  // 2.5 expected
  EXPECT_LE(rare, 11);
}

// Distributions that differ a little mostly have the same token: at least (1 - d) / (1 + d) of
// draws, where d is how much of one is not in the other.
TEST(Race, DrawsTheSameFromSimilarWeights) {
  std::mt19937 random(6);
  std::normal_distribution<float> normal(0, 1);
  constexpr size_t kSize = 3000;
  std::vector<float> logits(kSize), a(kSize), b(kSize);
  for (float& logit : logits) logit = 2 * normal(random);
  const float largest = 12;
  SoftmaxWeights(logits, largest, 1.0f, a.data());
  for (float& logit : logits) logit += 0.3f * normal(random);
  SoftmaxWeights(logits, largest, 1.0f, b.data());
  double differ = 0;
  for (size_t i = 0; i < kSize; ++i) differ += std::abs(a[i] / Sum(a) - b[i] / Sum(b)) / 2;
  int same = 0;
  constexpr int kDraws = 4000;
  for (uint64_t i = 0; i < kDraws; ++i) {
    const uint64_t key = DrawKey(1, i);
    same += Race(a, nullptr, key).index == Race(b, nullptr, key).index ? 1 : 0;
  }
  EXPECT_GT(differ, 0.05);
  EXPECT_GT(same, kDraws * ((1 - differ) / (1 + differ) - 0.03));
  EXPECT_LT(same, kDraws * (1 - differ + 0.03)) << "no coupling does better";
}

}  // namespace
}  // namespace qianyi
