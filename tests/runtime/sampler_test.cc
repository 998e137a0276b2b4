#include "runtime/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "nlohmann/json.hpp"
#include "tests/runtime/verse/allocations.h"
#include "tests/support/floats.h"
#include "tests/support/paths.h"

namespace qianyi {
namespace {

using testing::kInfinity;
using testing::kNan;

using Floats = std::vector<float>;
using Ids = std::vector<int32_t>;

Floats Probabilities(const SamplingParams& params, Floats logits, const Ids& history = {}) {
  Sampler sampler(static_cast<int64_t>(logits.size()));
  Floats out(logits.size(), -1.0f);
  sampler.Probabilities(params, logits, history, out);
  return out;
}

SampledToken Sample(const SamplingParams& params, Floats logits, const Ids& history = {},
                    uint64_t index = 0) {
  Sampler sampler(static_cast<int64_t>(logits.size()));
  SampledToken token;
  sampler.Sample(params, logits, history, index, &token);
  return token;
}

std::set<int32_t> Kept(const Floats& probabilities) {
  std::set<int32_t> kept;
  for (size_t i = 0; i < probabilities.size(); ++i) {
    if (probabilities[i] > 0) kept.insert(static_cast<int32_t>(i));
  }
  return kept;
}

Floats RandomLogits(std::mt19937& random, size_t size, float spread) {
  std::normal_distribution<float> normal(0, spread);
  Floats logits(size);
  for (float& logit : logits) logit = normal(random);
  return logits;
}

// The definition, with sorting, in double: what the filters leave, before normalizing.
std::vector<double> Oracle(const SamplingParams& params, const Floats& logits) {
  const size_t size = logits.size();
  const double largest = *std::max_element(logits.begin(), logits.end());
  std::vector<double> weights(size);
  for (size_t i = 0; i < size; ++i) {
    weights[i] = std::exp((logits[i] - largest) / static_cast<double>(params.temperature));
  }
  Floats sorted = logits;
  std::sort(sorted.rbegin(), sorted.rend());
  if (params.top_k > 0 && static_cast<size_t>(params.top_k) < size) {
    const float kth = sorted[static_cast<size_t>(params.top_k) - 1];
    for (size_t i = 0; i < size; ++i) weights[i] = logits[i] >= kth ? weights[i] : 0;
  }
  for (double& weight : weights) weight = weight >= params.min_p ? weight : 0;
  std::vector<size_t> order(size);
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return weights[a] > weights[b]; });
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  double before = 0;
  for (const size_t i : order) {
    const double weight = weights[i];
    if (params.top_p < 1 && before > static_cast<double>(params.top_p) * sum) weights[i] = 0;
    before += weight;
  }
  return weights;
}

TEST(Sampler, FiltersAsTheOracleDoes) {
  std::mt19937 random(5);
  for (int round = 0; round < 600; ++round) {
    const Floats logits = RandomLogits(random, 1 + random() % 400, 1 + random() % 5);
    SamplingParams params;
    if (random() % 2) params.top_k = 1 + static_cast<int32_t>(random() % 60);
    if (random() % 2) params.top_p = static_cast<float>(1 + random() % 99) / 100;
    if (random() % 3 == 0) params.min_p = static_cast<float>(random() % 40) / 100;
    params.temperature = static_cast<float>(1 + random() % 30) / 10;
    const std::vector<double> weights = Oracle(params, logits);
    const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
    const Floats got = Probabilities(params, logits);
    for (size_t i = 0; i < logits.size(); ++i) {
      ASSERT_NEAR(got[i], weights[i] / sum, 1e-6) << "round " << round << " token " << i;
    }
  }
}

// From the original CogView's filters: temperature, mask, top-k, top-p.
TEST(Sampler, FiltersAsTheOriginalDoes) {
  std::ifstream file(qianyi::testing::FixturePath("sampler-filter/cases.json"));
  const nlohmann::json fixture = nlohmann::json::parse(file);
  const size_t masked_from = fixture.at("masked_from").get<size_t>();
  int compared = 0;
  for (const nlohmann::json& entry : fixture.at("cases")) {
    SamplingParams params;
    params.top_k = entry.at("top_k").get<int32_t>();
    const float top_p = entry.at("top_p").get<float>();
    if (top_p > 0) params.top_p = top_p;
    params.temperature = entry.at("temperature").get<float>();
    for (size_t row = 0; row < 2; ++row) {
      Floats logits = fixture.at("logits").at(row).get<Floats>();
      std::fill(logits.begin() + static_cast<int64_t>(masked_from), logits.end(), -kInfinity);
      const Floats want = entry.at("probabilities").at(row).get<Floats>();
      const Floats got = Probabilities(params, logits);
      for (size_t i = 0; i < got.size(); ++i) {
        ASSERT_NEAR(got[i], i < masked_from ? want[i] : 0.0f, 1e-6)
            << entry.at("top_k") << " " << i;
        ASSERT_EQ(got[i] > 0, i < masked_from && want[i] > 0);
        ++compared;
      }
    }
  }
  EXPECT_EQ(compared, 6 * 2 * 80);
  SamplingParams params;
  params.top_k = fixture.at("ties").at("top_k").get<int32_t>();
  const Floats got = Probabilities(params, fixture.at("ties").at("logits").get<Floats>());
  const Floats want = fixture.at("ties").at("probabilities").get<Floats>();
  for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got[i], want[i], 1e-6);
}

// The order shows where one filter sees what another left: 0.5, 0.3, 0.15, 0.05.
TEST(Sampler, FiltersInTheDocumentedOrder) {
  const Floats logits = {std::log(0.5f), std::log(0.3f), std::log(0.15f), std::log(0.05f)};
  SamplingParams params;
  params.top_p = 0.6f;
  EXPECT_EQ(Kept(Probabilities(params, logits)), (std::set<int32_t>{0, 1}));
  params.top_k = 2;  // 0.625 and 0.375 now: the first alone passes 0.6
  EXPECT_EQ(Kept(Probabilities(params, logits)), (std::set<int32_t>{0}));
  params = {};
  params.top_p = 0.85f;  // 0.8 before the third
  EXPECT_EQ(Kept(Probabilities(params, logits)), (std::set<int32_t>{0, 1, 2}));
  params.min_p = 0.2f;  // without the fourth 0.842: the third stays; without min-p it would too
  EXPECT_EQ(Kept(Probabilities(params, logits)), (std::set<int32_t>{0, 1, 2}));
  params.top_p = 0.82f;  // 0.8 does not exceed it, 0.842 does
  EXPECT_EQ(Kept(Probabilities(params, logits)), (std::set<int32_t>{0, 1}));
  params = {};
  params.min_p = 0.5f;
  EXPECT_EQ(Kept(Probabilities(params, logits)), (std::set<int32_t>{0, 1}));
  params.temperature = 2;  // ratios become their square roots: 0.775, 0.548, 0.316
  EXPECT_EQ(Kept(Probabilities(params, logits)), (std::set<int32_t>{0, 1, 2}));
  params = {};
  params.top_k = 1;
  params.logit_bias = {{3, 100.0f}};
  EXPECT_EQ(Kept(Probabilities(params, logits)), (std::set<int32_t>{3}));
}

TEST(Sampler, PenaltiesAreTheHandComputedNumbers) {
  const Floats logits = {2.0f, -1.0f, 3.0f, 0.5f};
  SamplingParams params;
  params.repetition_penalty = 2.0f;
  params.presence_penalty = 0.25f;
  params.frequency_penalty = 0.5f;
  // Token 0 occurred twice: 2 / 2 - 0.25 - 2 * 0.5 = -0.25. Token 1 once: -1 * 2 - 0.75 = -2.75.
  // Ids outside the vocabulary are passed over.
  const Floats penalized = {-0.25f, -2.75f, 3.0f, 0.5f};
  const Floats want = Probabilities({}, penalized);
  const Floats got = Probabilities(params, logits, {0, 1, 0, -1, 4, 1 << 30});
  for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got[i], want[i], 1e-7);
  // A bias comes before them: (2 + 4) / 2 for token 0.
  params = {};
  params.repetition_penalty = 2.0f;
  params.logit_bias = {{0, 4.0f}};
  const Floats biased = Probabilities(params, logits, {0});
  const Floats want_biased = Probabilities({}, {3.0f, -1.0f, 3.0f, 0.5f});
  for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(biased[i], want_biased[i], 1e-7);
}

TEST(Sampler, PenaltiesLeaveNothingBehind) {
  Sampler sampler(4);
  SamplingParams params;
  params.frequency_penalty = 1.0f;
  SampledToken token;
  for (int i = 0; i < 3; ++i) {
    Floats logits = {1.0f, 0.0f, 0.0f, 0.0f};
    Floats out(4);
    sampler.Probabilities(params, logits, Ids{0, 0}, out);
    const Floats want = Probabilities({}, {-1.0f, 0.0f, 0.0f, 0.0f});
    for (size_t k = 0; k < 4; ++k) ASSERT_NEAR(out[k], want[k], 1e-7);
  }
}

TEST(Sampler, DrawsFollowTheDistribution) {
  std::mt19937 random(6);
  for (int round = 0; round < 6; ++round) {
    const Floats logits = RandomLogits(random, 40, 1.5f);
    SamplingParams params;
    params.seed = 1000 + static_cast<uint64_t>(round);
    if (round % 3 == 1) params.top_k = 12;
    if (round % 3 == 2) params.top_p = 0.8f;
    if (round >= 3) params.temperature = 0.7f;
    const Floats probabilities = Probabilities(params, logits);
    Sampler sampler(40);
    constexpr int kDraws = 20000;
    std::vector<int> counts(40);
    for (uint64_t i = 0; i < kDraws; ++i) {
      Floats copy = logits;
      SampledToken token;
      sampler.Sample(params, copy, {}, i, &token);
      ++counts[static_cast<size_t>(token.token)];
    }
    double chi_square = 0;
    int cells = 0;
    double rare = 0;
    int rare_count = 0;
    for (size_t i = 0; i < 40; ++i) {
      const double expected = static_cast<double>(probabilities[i]) * kDraws;
      if (expected == 0) {
        ASSERT_EQ(counts[i], 0);
      }
      if (expected < 10) {
        rare += expected;
        rare_count += counts[i];
        continue;
      }
      chi_square += (counts[i] - expected) * (counts[i] - expected) / expected;
      ++cells;
    }
    if (rare >= 5) {
      chi_square += (rare_count - rare) * (rare_count - rare) / rare;
      ++cells;
    }
    // Mean cells - 1, standard deviation the root of twice that: five of them is far out.
    EXPECT_LT(chi_square, cells - 1 + 5 * std::sqrt(2.0 * cells)) << round;
  }
}

TEST(Sampler, TheTokenIsAFunctionOfItsInputsAlone) {
  std::mt19937 random(7);
  const Floats logits = RandomLogits(random, 1000, 2.0f);
  SamplingParams params;
  params.top_p = 0.95f;
  params.seed = 99;
  const auto draw = [&](Sampler& sampler, uint64_t index) {
    Floats copy = logits;
    SampledToken token;
    sampler.Sample(params, copy, {}, index, &token);
    return token.token;
  };
  Sampler alone(1000);
  Ids want;
  for (uint64_t i = 0; i < 200; ++i) want.push_back(draw(alone, i));
  EXPECT_GT(std::set<int32_t>(want.begin(), want.end()).size(), 20u);
  // In another order, with other requests between, on another thread.
  std::thread([&] {
    Sampler shared(1000);
    SamplingParams other;
    other.top_k = 3;
    other.repetition_penalty = 1.5f;
    for (uint64_t i = 200; i-- > 0;) {
      Floats foreign = RandomLogits(random, 1000, 5.0f);
      SampledToken token;
      shared.Sample(other, foreign, Ids{1, 2, 3}, i, &token);
      ASSERT_EQ(draw(shared, i), want[i]);
    }
  }).join();
  params.seed = 100;
  Ids reseeded;
  for (uint64_t i = 0; i < 200; ++i) reseeded.push_back(draw(alone, i));
  EXPECT_NE(reseeded, want);
}

// Without what was taken, the same draw takes the second choice.
TEST(Sampler, TheSecondChoiceIsWhatComesWithoutTheFirst) {
  std::mt19937 random(8);
  Sampler sampler(300);
  for (int round = 0; round < 200; ++round) {
    const Floats logits = RandomLogits(random, 300, 2.0f);
    SamplingParams params;
    params.seed = 11;
    params.temperature = round % 4 == 0 ? 0.0f : 0.8f;
    if (round % 4 == 2) params.top_k = 20;
    if (round % 4 == 3) params.repetition_penalty = 1.4f;
    if (round % 8 > 3) params.logprobs = 3;  // which are found in the same memory
    const Ids history = {3, 4, 5, 6};
    const auto index = static_cast<uint64_t>(round);
    Floats left = logits;
    SampledToken token;
    sampler.Sample(params, left, history, index, &token);
    const SecondChoice second = sampler.Second(params, left, index, token.token);
    EXPECT_GE(second.gap, 0.0f);
    Floats without = logits;
    without[static_cast<size_t>(token.token)] = -kInfinity;
    SamplingParams fewer = params;
    fewer.top_k = std::max(0, params.top_k - 1);
    EXPECT_EQ(second.token, Sample(fewer, without, history, index).token) << round;
    // With so much more it would have been the first.
    if (params.temperature == 0 || params.top_k > 0 || params.repetition_penalty != 1) continue;
    Floats more = logits;
    more[static_cast<size_t>(second.token)] += 1.001f * second.gap * params.temperature + 1e-4f;
    EXPECT_EQ(Sample(params, more, history, index).token, second.token) << round;
  }
  Floats one = {-kInfinity, 1.0f, -kInfinity};
  SampledToken token;
  sampler.Sample({}, one, {}, 0, &token);
  EXPECT_EQ(token.token, 1);
  EXPECT_EQ(sampler.Second({}, one, 0, 1).token, -1) << "there is no other";
}

TEST(Sampler, GreedyTakesTheLowestOfTheBest) {
  SamplingParams greedy;
  greedy.temperature = 0;
  EXPECT_EQ(Sample(greedy, {1, 3, 2, 3}).token, 1);
  EXPECT_EQ(Sample(greedy, {kNan, 1, kNan, 2}).token, 3);
  EXPECT_EQ(Sample(greedy, {-kInfinity, -kInfinity, -5}).token, 2);
  EXPECT_EQ(Sample(greedy, {0, kInfinity, kInfinity}).token, 1);
  greedy.repetition_penalty = 2;
  EXPECT_EQ(Sample(greedy, {2, 3, 1}, {1}).token, 0);
  EXPECT_EQ(Probabilities(greedy, {2, 3, 1}), (Floats{0, 1, 0}));
}

TEST(Sampler, OddNumbersHaveDefinedResults) {
  SamplingParams params;
  params.report_logprob = true;
  params.logprobs = 2;
  for (const float temperature : {0.0f, 1.0f}) {
    params.temperature = temperature;
    const SampledToken none = Sample(params, {-kInfinity, kNan, -kInfinity});
    EXPECT_EQ(none.token, 0);
    EXPECT_EQ(none.logprob, -kInfinity);
    const SampledToken infinite = Sample(params, {0, kInfinity, kNan, kInfinity});
    EXPECT_TRUE(infinite.token == 1 || infinite.token == 3);
    EXPECT_NEAR(infinite.logprob, std::log(0.5f), 1e-6);
    const SampledToken last = Sample(params, {kNan, -kInfinity, -1e30f});
    EXPECT_EQ(last.token, 2);
    EXPECT_EQ(last.logprob, 0.0f);
    for (uint64_t i = 0; i < 50; ++i) {
      EXPECT_NE(Sample(params, {kNan, 0, kNan, 0}, {}, i).token % 2, 0);
    }
  }
  params = {};
  params.temperature = std::numeric_limits<float>::denorm_min();
  EXPECT_EQ(Sample(params, {1, 2, -kInfinity}).token, 1);
  params.temperature = 1;
  params.top_k = 2;
  EXPECT_EQ(Kept(Probabilities(params, {kNan, 1, kNan, kNan})), (std::set<int32_t>{1}));
  params.top_p = 0.5f;
  params.min_p = 0.1f;
  EXPECT_EQ(Kept(Probabilities(params, {kNan, 1, -kInfinity, kNan})), (std::set<int32_t>{1}));
  EXPECT_EQ(Kept(Probabilities(params, {-kInfinity, -kInfinity})), (std::set<int32_t>{0}));
}

TEST(Sampler, LogprobsAreOfTheUnmodifiedDistribution) {
  std::mt19937 random(8);
  const Floats logits = RandomLogits(random, 700, 3.0f);
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit));
  SamplingParams params;
  params.logprobs = 20;
  params.temperature = 0.3f;
  params.top_k = 5;
  params.repetition_penalty = 1.7f;
  params.presence_penalty = 3;
  params.logit_bias = {{17, 40.0f}};
  const SampledToken token = Sample(params, logits, {1, 2, 3, 17});
  EXPECT_EQ(token.token, 17);
  EXPECT_NEAR(token.logprob, logits[17] - std::log(sum), 1e-5);
  ASSERT_EQ(token.top.size(), 20u);
  std::vector<int32_t> order(700);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
  });
  for (size_t i = 0; i < 20; ++i) {
    EXPECT_EQ(token.top[i].token, order[i]);
    EXPECT_NEAR(token.top[i].logprob, logits[static_cast<size_t>(order[i])] - std::log(sum), 1e-5);
  }
}

TEST(Sampler, TopLogprobsBreakTiesByIdAndStopAtTheVocabulary) {
  SamplingParams params;
  params.logprobs = 3;
  params.temperature = 0;
  Floats logits(600, 0.0f);
  logits[599] = 1.0f;
  const SampledToken token = Sample(params, logits);
  ASSERT_EQ(token.top.size(), 3u);
  EXPECT_EQ(token.top[0].token, 599);
  EXPECT_EQ(token.top[1].token, 0);
  EXPECT_EQ(token.top[2].token, 1);
  params.logprobs = 20;
  EXPECT_EQ(Sample(params, {1, 2}).top.size(), 2u);
  params.logprobs = 0;
  EXPECT_TRUE(Sample(params, {1, 2}).top.empty());
  EXPECT_EQ(Sample(params, {1, 2}).logprob, 0.0f);
}

struct BadParams {
  const char* field;
  void (*change)(SamplingParams&);
};

TEST(Validate, NamesTheFieldThatIsOutOfRange) {
  const BadParams bad[] = {
      {"temperature", [](SamplingParams& p) { p.temperature = -0.1f; }},
      {"temperature", [](SamplingParams& p) { p.temperature = 100.5f; }},
      {"temperature", [](SamplingParams& p) { p.temperature = kNan; }},
      {"temperature", [](SamplingParams& p) { p.temperature = kInfinity; }},
      {"top_k", [](SamplingParams& p) { p.top_k = -1; }},
      {"top_p", [](SamplingParams& p) { p.top_p = 0; }},
      {"top_p", [](SamplingParams& p) { p.top_p = 1.01f; }},
      {"top_p", [](SamplingParams& p) { p.top_p = kNan; }},
      {"min_p", [](SamplingParams& p) { p.min_p = -0.1f; }},
      {"min_p", [](SamplingParams& p) { p.min_p = 1; }},
      {"min_p", [](SamplingParams& p) { p.min_p = kNan; }},
      {"repetition_penalty", [](SamplingParams& p) { p.repetition_penalty = 0; }},
      {"repetition_penalty", [](SamplingParams& p) { p.repetition_penalty = 10.5f; }},
      {"repetition_penalty", [](SamplingParams& p) { p.repetition_penalty = kNan; }},
      {"presence_penalty", [](SamplingParams& p) { p.presence_penalty = -11; }},
      {"presence_penalty", [](SamplingParams& p) { p.presence_penalty = kNan; }},
      {"frequency_penalty", [](SamplingParams& p) { p.frequency_penalty = 11; }},
      {"frequency_penalty", [](SamplingParams& p) { p.frequency_penalty = kNan; }},
      {"logprobs", [](SamplingParams& p) { p.logprobs = 21; }},
      {"logprobs", [](SamplingParams& p) { p.logprobs = -1; }},
      {"logit_bias",
       [](SamplingParams& p) {
         p.logit_bias.assign(1025, {0, 1.0f});
       }},
      {"logit_bias",
       [](SamplingParams& p) {
         p.logit_bias = {{10, 1.0f}};
       }},
      {"logit_bias",
       [](SamplingParams& p) {
         p.logit_bias = {{-1, 1.0f}};
       }},
      {"logit_bias",
       [](SamplingParams& p) {
         p.logit_bias = {{1, 101.0f}};
       }},
      {"logit_bias",
       [](SamplingParams& p) {
         p.logit_bias = {{1, kNan}};
       }},
  };
  for (const BadParams& entry : bad) {
    SamplingParams params;
    entry.change(params);
    const absl::Status status = Validate(params, 10);
    ASSERT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << entry.field;
    EXPECT_EQ(std::string(status.message()).find(entry.field), 0u) << status;
  }
  SamplingParams edges;
  edges.temperature = 100;
  edges.top_k = std::numeric_limits<int32_t>::max();
  edges.top_p = 1;
  edges.repetition_penalty = 10;
  edges.presence_penalty = -10;
  edges.frequency_penalty = 10;
  edges.logprobs = 20;
  edges.logit_bias.assign(1024, {9, -100.0f});
  EXPECT_TRUE(Validate(edges, 10).ok());
  EXPECT_TRUE(Validate(SamplingParams(), 10).ok());
}

// Of what was remembered, once: a constraint has masked what is sampled from.
TEST(Sampler, ReportsTheModelsOwnDistributionWhenToldSo) {
  Sampler sampler(4);
  SamplingParams params;
  params.temperature = 0;
  params.report_logprob = true;
  params.logprobs = 2;
  const Floats own = {3, 2, 1, 0};
  for (const bool remembers : {true, false}) {
    Floats masked = {-std::numeric_limits<float>::infinity(), 2, 1, 0};
    SampledToken token;
    if (remembers) sampler.Remember(own);
    sampler.Sample(params, masked, {}, 0, &token);
    EXPECT_EQ(token.token, 1);
    EXPECT_EQ(token.top[0].token, remembers ? 0 : 1);
    EXPECT_NEAR(token.logprob, remembers ? -1.4402 : -0.4076, 1e-4);
  }
}

TEST(Sampler, ReportsWithoutTakingMemory) {
  constexpr size_t kVocabulary = 5000;
  std::mt19937 random(3);
  Sampler sampler(kVocabulary);
  SamplingParams params;
  params.report_logprob = true;
  params.presence_penalty = 1;
  for (const int32_t count : {0, 1, 7, 20}) {
    params.logprobs = count;
    Floats logits = RandomLogits(random, kVocabulary, 2.0f);
    SampledToken token;
    token.top.reserve(static_cast<size_t>(count));  // as a Sink does
    const std::vector<int32_t> history = {1, 2, 3};
    const int64_t before = testing::Allocations();
    sampler.Sample(params, logits, history, 0, &token);
    EXPECT_EQ(testing::Allocations(), before) << count;
    EXPECT_EQ(token.top.size(), static_cast<size_t>(count));
  }
}

TEST(Sampler, LargeVocabulariesOfEveryShape) {
  constexpr size_t kVocabulary = 151552;
  std::mt19937 random(9);
  Floats ascending(kVocabulary);
  for (size_t i = 0; i < kVocabulary; ++i) ascending[i] = 1e-3f * static_cast<float>(i);
  SamplingParams params;
  params.top_k = 50;
  params.top_p = 0.9f;
  EXPECT_LT(Kept(Probabilities(params, RandomLogits(random, kVocabulary, 2.5f))).size(), 50u);
  // Weights fall by e^-0.001 from one to the next: 0.9 of 50 of them is passed with the 45th.
  EXPECT_EQ(Kept(Probabilities(params, ascending)).size(), 45u);
  // All tie with the 50th; the lowest ids make up 0.9 of the whole.
  const Floats flat = Probabilities(params, Floats(kVocabulary, 1.0f));
  const size_t kept = Kept(flat).size();
  EXPECT_NEAR(static_cast<double>(kept), 0.9 * kVocabulary, 2);
  EXPECT_GT(flat[kept - 1], 0);
  EXPECT_EQ(flat[kept], 0);
}

}  // namespace
}  // namespace qianyi
