#include "runtime/sampler_math.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <functional>
#include <limits>

#include "kernels/sampling.h"

namespace qianyi {
namespace {

constexpr size_t kBlock = 512;
constexpr size_t kLanes = 16;

// e^x for x <= 0: x = n ln 2 + r with |r| <= ln 2 / 2, Taylor's series to r^7 (the rest is
// below 6e-9), 2^n by its bits. NaN and what would be denormal become 0. Selections are made
// on integers, so that compilers turn the loops around this into vector code.
inline float ExpOfNonPositive(float x) {
  constexpr float kLog2E = 1.44269504f;
  constexpr float kLn2High = 0.693359375f;  // n times this is exact
  constexpr float kLn2Low = -2.12194440e-4f;
  constexpr uint32_t kSmallest = std::bit_cast<uint32_t>(87.33654f);  // of -x
  const uint32_t bits = std::bit_cast<uint32_t>(x) & 0x7FFFFFFFu;
  const uint32_t within = bits <= kSmallest ? 0xFFFFFFFFu : 0u;
  const float bounded = -std::bit_cast<float>(bits & within);
  const int32_t n = static_cast<int32_t>(bounded * kLog2E - 0.5f);  // to the nearest
  const float whole = static_cast<float>(n);
  const float r = (bounded - whole * kLn2High) - whole * kLn2Low;
  float sum = 1.0f / 5040;
  sum = sum * r + 1.0f / 720;
  sum = sum * r + 1.0f / 120;
  sum = sum * r + 1.0f / 24;
  sum = sum * r + 1.0f / 6;
  sum = sum * r + 0.5f;
  sum = sum * r + 1.0f;
  sum = sum * r + 1.0f;
  const float power = std::bit_cast<float>((n + 127) << 23);
  return std::bit_cast<float>(std::bit_cast<uint32_t>(sum * power) & within);
}

inline float LargestOfBlock(const float* values, size_t count) {
  float lanes[kLanes];
  for (float& lane : lanes) lane = -kFloatInfinity;
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (size_t j = 0; j < kLanes; ++j) {
      lanes[j] = values[i + j] > lanes[j] ? values[i + j] : lanes[j];
    }
  }
  float largest = -kFloatInfinity;
  for (; i < count; ++i) largest = values[i] > largest ? values[i] : largest;
  for (const float lane : lanes) largest = lane > largest ? lane : largest;
  return largest;
}

double SumOfBlock(const float* values, size_t count) {
  double lanes[kLanes] = {};
  size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (size_t j = 0; j < kLanes; ++j) lanes[j] += static_cast<double>(values[i + j]);
  }
  double sum = 0;
  for (; i < count; ++i) sum += static_cast<double>(values[i]);
  for (const double lane : lanes) sum += lane;
  return sum;
}

// Adds each weight to the bucket of ten of its bits. Four histograms take turns, since equal
// weights in a row would otherwise wait for each other's sums.
void SumByBits(std::span<const float> weights, int shift, std::array<double, 1024>* masses) {
  constexpr size_t kTurns = 4;
  std::array<std::array<double, 1024>, kTurns> turns{};
  const auto add = [&](size_t turn, float weight) {
    turns[turn][(std::bit_cast<uint32_t>(weight) >> shift) & 1023] += static_cast<double>(weight);
  };
  size_t i = 0;
  for (; i + kTurns <= weights.size(); i += kTurns) {
    for (size_t turn = 0; turn < kTurns; ++turn) add(turn, weights[i + turn]);
  }
  for (; i < weights.size(); ++i) add(0, weights[i]);
  for (size_t bucket = 0; bucket < masses->size(); ++bucket) {
    (*masses)[bucket] =
        (turns[0][bucket] + turns[1][bucket]) + (turns[2][bucket] + turns[3][bucket]);
  }
}

}  // namespace

std::array<uint32_t, 4> Philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  constexpr uint64_t kMultiplier0 = 0xD2511F53;
  constexpr uint64_t kMultiplier1 = 0xCD9E8D57;
  constexpr int kRounds = 10;
  for (int round = 0; round < kRounds; ++round) {
    const uint64_t product0 = kMultiplier0 * counter[0];
    const uint64_t product1 = kMultiplier1 * counter[2];
    counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key[0],
               static_cast<uint32_t>(product1),
               static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key[1],
               static_cast<uint32_t>(product0)};
    key[0] += 0x9E3779B9;  // the golden ratio
    key[1] += 0xBB67AE85;  // the square root of 3, less 1
  }
  return counter;
}

uint64_t DrawKey(uint64_t seed, uint64_t index) {
  const std::array<uint32_t, 4> words =
      Philox({static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32), 0, 0},
             {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  return static_cast<uint64_t>(words[0]) << 32 | words[1];
}

float Largest(std::span<const float> values) {
  return LargestOfBlock(values.data(), values.size());
}

int32_t IndexOfLargest(std::span<const float> values) {
  float best = -kFloatInfinity;
  size_t index = 0;
  for (size_t begin = 0; begin < values.size(); begin += kBlock) {
    const size_t count = std::min(kBlock, values.size() - begin);
    const float largest = LargestOfBlock(values.data() + begin, count);
    if (!(largest > best)) continue;  // equals go to the lower index
    best = largest;
    index = begin;
    while (values[index] != best) ++index;
  }
  return static_cast<int32_t>(index);
}

void SoftmaxWeights(std::span<const float> values, float largest, float temperature,
                    float* weights) {
  const size_t count = values.size();
  if (largest == kFloatInfinity) {
    for (size_t i = 0; i < count; ++i) weights[i] = values[i] == kFloatInfinity ? 1.0f : 0.0f;
    return;
  }
  for (size_t i = 0; i < count; ++i) {
    weights[i] = ExpOfNonPositive((values[i] - largest) / temperature);
  }
}

double Sum(std::span<const float> values) {
  double sum = 0;
  for (size_t begin = 0; begin < values.size(); begin += kBlock) {
    sum += SumOfBlock(values.data() + begin, std::min(kBlock, values.size() - begin));
  }
  return sum;
}

// The k-th largest of the blocks' maxima bounds the k-th largest value from below, so that
// few values are left for an ordinary selection.
double LogProbabilityAt(std::span<const float> values, int32_t index) {
  const double largest = Largest(values);
  double sum = 0;
  for (const float value : values) sum += std::exp(value - largest);
  return values[index] - largest - std::log(sum);
}

float KthLargest(std::span<const float> values, int64_t k, float* scratch) {
  constexpr size_t kSmallBlock = 64;
  size_t blocks = 0;
  for (size_t begin = 0; begin < values.size(); begin += kSmallBlock) {
    scratch[blocks++] =
        LargestOfBlock(values.data() + begin, std::min(kSmallBlock, values.size() - begin));
  }
  float bound = -kFloatInfinity;
  if (static_cast<size_t>(k) <= blocks) {
    std::nth_element(scratch, scratch + k - 1, scratch + blocks, std::greater<>());
    bound = scratch[k - 1];
  }
  int64_t found = 0;
  for (size_t begin = 0; begin < values.size(); begin += kSmallBlock) {
    const size_t count = std::min(kSmallBlock, values.size() - begin);
    if (LargestOfBlock(values.data() + begin, count) < bound) continue;
    for (size_t i = begin; i < begin + count; ++i) {
      if (values[i] >= bound) scratch[found++] = values[i];
    }
  }
  if (found < k) return -kFloatInfinity;  // there are NaN among the k largest
  std::nth_element(scratch, scratch + k - 1, scratch + found, std::greater<>());
  return scratch[k - 1];
}

// The bits of a float in [0, 1] grow with it, and its top two are 0. So three rounds over ten
// bits each find the weight at which the sum is passed, whatever the distribution.
MassCut CutByMass(std::span<const float> weights, double mass, float* scratch) {
  std::array<double, 1024> masses;
  uint32_t prefix = 0;  // the bits that are settled
  double above = 0;     // the sum of larger weights
  for (const int shift : {20, 10, 0}) {
    SumByBits(weights, shift, &masses);
    uint32_t bucket = 1023;
    while (bucket > 0 && above + masses[bucket] <= mass) above += masses[bucket--];
    if (above + masses[bucket] <= mass) {
      // The sum is not passed here, or only but for rounding: all that share the prefix stay.
      const uint32_t lowest = shift == 20 ? 0 : prefix << (shift + 10);
      return {std::bit_cast<float>(lowest), std::numeric_limits<int64_t>::max()};
    }
    prefix = prefix << 10 | bucket;
    size_t found = 0;
    for (const float weight : weights) {
      scratch[found] = weight;
      found += std::bit_cast<uint32_t>(weight) >> shift == prefix ? 1 : 0;
    }
    weights = std::span<const float>(scratch, found);
  }
  const float floor = std::bit_cast<float>(prefix);
  return {floor, static_cast<int64_t>((mass - above) / static_cast<double>(floor)) + 1};
}

RaceWinner Race(std::span<const float> weights, const int32_t* tokens, uint64_t key,
                int64_t without) {
  constexpr size_t kSmallBlock = 64;
  RaceWinner winner{.index = -1, .finish = std::numeric_limits<double>::infinity()};
  for (size_t begin = 0; begin < weights.size(); begin += kSmallBlock) {
    const size_t count = std::min(kSmallBlock, weights.size() - begin);
    // Few can still win. That is seen without a branch or a logarithm.
    uint32_t noise[kSmallBlock];
    for (size_t j = 0; j < count; ++j) {
      const size_t i = begin + j;
      noise[j] = RaceNoise(key, static_cast<uint32_t>(tokens == nullptr ? i : tokens[i]));
    }
    const float bound = RaceBound(winner.finish);
    int may_win = 0;
    for (size_t j = 0; j < count; ++j) {
      may_win |= RaceAtLeast(noise[j]) < weights[begin + j] * bound ? 1 : 0;
    }
    if (may_win == 0) continue;
    for (size_t j = 0; j < count; ++j) {
      const float weight = weights[begin + j];
      const auto index = static_cast<int64_t>(begin + j);
      if (!(RaceAtLeast(noise[j]) < weight * RaceBound(winner.finish)) || index == without)
        continue;
      const double finish = RaceFinish(key, noise[j]) / static_cast<double>(weight);
      if (finish < winner.finish) winner = {index, finish};
    }
  }
  return winner;
}

}  // namespace qianyi
