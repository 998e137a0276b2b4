#include "runtime/storage/synth_router.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

namespace qianyi {
namespace {

constexpr double kMostProbable = 0.98;
constexpr double kLeastProbable = 1e-6;

// x with P(standard normal > x) = p.
double UpperQuantile(double p) {
  double low = -8, high = 8;
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    (0.5 * std::erfc(middle / std::sqrt(2.0)) > p ? low : high) = middle;
  }
  return low;
}

// r^-skew, scaled so that their sum is `routed`, none above kMostProbable.
std::vector<double> Probabilities(int64_t experts, int64_t routed, double skew) {
  std::vector<double> weights, shares(experts);
  for (int64_t r = 1; r <= experts; ++r) weights.push_back(std::pow(1.0 * r, -skew));
  const auto sum = [&](double factor) {
    double total = 0;
    for (int64_t r = 0; r < experts; ++r) {
      shares[r] = std::clamp(weights[r] * factor, kLeastProbable, kMostProbable);
      total += shares[r];
    }
    return total;
  };
  double low = 0, high = 1;
  while (sum(high) < routed && high < 1e12) high *= 2;
  for (int i = 0; i < 100; ++i) {
    const double middle = (low + high) / 2;
    (sum(middle) < routed ? low : high) = middle;
  }
  sum(high);
  return shares;
}

}  // namespace

// With a threshold of 1/2, σ(logit) + c exceeds it with the probability that the logit exceeds its
// quantile q when c = 1/2 - σ(q).
std::vector<float> RouterCorrections(int64_t experts, int64_t routed, double skew, uint64_t key) {
  const std::vector<double> shares = Probabilities(experts, routed, skew);
  std::vector<int64_t> rank(experts);
  std::iota(rank.begin(), rank.end(), 0);
  std::mt19937_64 random(key);
  for (int64_t i = experts - 1; i > 0; --i) std::swap(rank[i], rank[random() % (i + 1)]);
  std::vector<float> corrections;
  for (int64_t e = 0; e < experts; ++e) {
    const double quantile = UpperQuantile(shares[rank[e]]);
    corrections.push_back(static_cast<float>(0.5 - 1 / (1 + std::exp(-quantile))));
  }
  return corrections;
}

}  // namespace qianyi
