// The arithmetic under the sampler: passes over one row of logits, each linear in its length
// whatever the numbers, and a counter-based random number.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <span>

namespace qianyi {

// Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
std::array<uint32_t, 4> Philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);
// Of one draw (kernels/sampling.h): a function of both numbers and nothing else.
uint64_t DrawKey(uint64_t seed, uint64_t index);

inline constexpr float kFloatInfinity = std::numeric_limits<float>::infinity();

// The largest value, NaN aside; -infinity when there is none.
float Largest(std::span<const float> values);
// Its lowest index; 0 when there is none.
int32_t IndexOfLargest(std::span<const float> values);

// weights[i] = exp((values[i] - largest) / temperature), to 2 ulp, and 0 where that is below
// 1.2e-38 or NaN. With an infinite `largest` (of +infinity) those values get 1, others 0.
void SoftmaxWeights(std::span<const float> values, float largest, float temperature,
                    float* weights);
// The sum in double, in a fixed order.
double Sum(std::span<const float> values);

// The natural log of the probability of `index` under a softmax over `values`.
double LogProbabilityAt(std::span<const float> values, int32_t index);

// The k-th largest value, 1 <= k <= values.size(); NaN counts as -infinity. `scratch` has room
// for as many values, and is not them.
float KthLargest(std::span<const float> values, int64_t k, float* scratch);

// Where top-p cuts a list of weights in [0, 1], sorted from the largest and, among equals,
// from the lowest index: kept are the weights above `floor` and the first `equal` at it.
struct MassCut {
  float floor = 0.0f;
  int64_t equal = 0;
};
// Keeps every weight before which the sum does not exceed `mass`. `scratch` as above.
MassCut CutByMass(std::span<const float> weights, double mass, float* scratch);

// Who wins the race of a draw (kernels/sampling.h), and when.
struct RaceWinner {
  int64_t index = -1;  // of the weight; -1 when all are 0
  double finish = 0.0;
};
// Weights from 0 to 1. `tokens`: whose they are; null: each is of its index. `without`: an index
// that does not take part, or -1.
RaceWinner Race(std::span<const float> weights, const int32_t* tokens, uint64_t key,
                int64_t without = -1);

}  // namespace qianyi
