// What the fixtures of FastMoE's gates say by their names, and the losses of gates in training.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kernels/experts.h"

namespace qianyi {

using Doubles = std::vector<double>;

inline constexpr double kGateNoiseEpsilon = 0.01;  // added to the noisy gate's deviations

// "gshard.train.cap1.2_2.4.random"; "naive.nobias.k2".
struct GateCase {
  std::string kind;  // naive, switch, gshard, swipe, noisy
  bool training = false;
  bool with_bias = true;
  bool random = false;
  int64_t top_k = 2;
  double rate = 0;  // of capacity; 0 = none

  RouterGate gate() const { return kind == "switch" ? RouterGate::kSwitch : RouterGate::kNaive; }
};
std::optional<GateCase> ParseGateName(const std::string& name);

struct RoutedTokens {
  std::vector<int32_t> chosen;  // [tokens, top_k], -1 = dropped
  std::vector<float> weights;   // [tokens, top_k]
};

// All matrices are [tokens, experts]. f and p of Switch (arXiv:2101.03961) are shares of what was
// kept, those of GShard (arXiv:2006.16668) of first choices before anything was dropped. 0 of other
// gates.
double BalanceLoss(const GateCase& of, const Doubles& logits, const std::vector<float>& noise,
                   int64_t experts, const RoutedTokens& before, const RoutedTokens& after);

// The variation of importance and of a smooth estimate of load (arXiv:1701.06538, appendix A).
double NoisyLoss(const Doubles& clean, const std::vector<float>& noise, const Doubles& deviations,
                 int64_t experts, const RoutedTokens& routed, int64_t top_k);

}  // namespace qianyi
