// Invented routers whose experts are as unevenly popular as real ones.
#pragma once

#include <cstdint>
#include <vector>

namespace qianyi {

// What is added to the scores σ(logit) of `experts` experts, so that the one of rank r = 1, 2, …
// is among the `routed` best with a probability proportional to r^-skew (at most 0.98), when the
// logits are independent of a standard normal distribution. Ranks follow from `key`.
std::vector<float> RouterCorrections(int64_t experts, int64_t routed, double skew, uint64_t key);

}  // namespace qianyi
