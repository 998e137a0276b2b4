#include "runtime/verify/fastmoe_gates.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"

namespace qianyi {
namespace {

double NormalCdf(double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); }

// Squared coefficient of variation, over n - 1.
double SquaredVariation(const Doubles& x) {
  if (x.size() == 1) return 0;
  const double mean = std::accumulate(x.begin(), x.end(), 0.0) / static_cast<double>(x.size());
  double squares = 0;
  for (const double v : x) squares += (v - mean) * (v - mean);
  return squares / static_cast<double>(x.size() - 1) / (mean * mean + 1e-10);
}

// "cap1.2_2.4.fixed": in training and in evaluation.
bool ParseRate(const std::string& rest, bool training, double* rate) {
  const size_t capacity = rest.find("cap");
  if (capacity == std::string::npos) return false;
  absl::string_view rates = absl::string_view(rest).substr(capacity + 3);
  for (const absl::string_view end : {".random", ".fixed"}) {
    if (absl::EndsWith(rates, end)) rates.remove_suffix(end.size());
  }
  const std::vector<std::string> both = absl::StrSplit(rates, '_');
  return both.size() == 2 && absl::SimpleAtod(both[training ? 0 : 1], rate) && *rate > 0;
}

}  // namespace

std::optional<GateCase> ParseGateName(const std::string& name) {
  GateCase of;
  const std::vector<std::string> words = absl::StrSplit(name, absl::MaxSplits('.', 1));
  of.kind = words[0];
  const std::string rest = words.size() > 1 ? words[1] : "";
  of.training = absl::StartsWith(rest, "train");
  of.with_bias = of.kind != "noisy" && !absl::StartsWith(rest, "nobias");
  of.random = absl::EndsWith(rest, ".random");
  if (of.kind == "switch") of.top_k = 1;
  if (of.kind == "switch" || of.kind == "gshard") {
    if (!ParseRate(rest, of.training, &of.rate)) return std::nullopt;
    return of;
  }
  const size_t k = rest.rfind('k');
  if (k == std::string::npos || !absl::SimpleAtoi(rest.substr(k + 1), &of.top_k)) {
    return std::nullopt;
  }
  if (of.kind == "naive" || of.kind == "swipe" || (of.kind == "noisy" && of.training)) return of;
  return std::nullopt;
}

double BalanceLoss(const GateCase& of, const Doubles& logits, const std::vector<float>& noise,
                   int64_t experts, const RoutedTokens& before, const RoutedTokens& after) {
  if (of.kind != "switch" && of.kind != "gshard") return 0;
  const RoutedTokens& counted = of.kind == "gshard" ? before : after;
  Doubles probability(experts, 0), chosen(experts, 0);
  double kept = 0;
  const int64_t tokens = static_cast<int64_t>(logits.size()) / experts;
  for (int64_t t = 0; t < tokens; ++t) {
    Doubles exponentials;
    for (int64_t at = t * experts; at < (t + 1) * experts; ++at) {
      exponentials.push_back(std::exp(logits[at] + noise[at]));
    }
    const double sum = std::accumulate(exponentials.begin(), exponentials.end(), 0.0);
    for (int64_t e = 0; e < experts; ++e) probability[e] += exponentials[e] / sum;
    const int32_t first = counted.chosen[t * of.top_k];
    if (first < 0) continue;
    chosen[first] += 1;
    kept += 1;
  }
  double loss = 0;
  for (int64_t e = 0; e < experts; ++e) loss += chosen[e] / kept * probability[e] / kept;
  return loss * static_cast<double>(experts);
}

double NoisyLoss(const Doubles& clean, const std::vector<float>& noise, const Doubles& deviations,
                 int64_t experts, const RoutedTokens& routed, int64_t top_k) {
  Doubles importance(experts, 0), load(experts, 0);
  const int64_t tokens = static_cast<int64_t>(clean.size()) / experts;
  for (int64_t t = 0; t < tokens; ++t) {
    Doubles noisy;
    for (int64_t at = t * experts; at < (t + 1) * experts; ++at) {
      noisy.push_back(clean[at] + noise[at]);
    }
    Doubles sorted = noisy;
    std::sort(sorted.begin(), sorted.end(), std::greater<>());
    for (int64_t j = 0; j < top_k; ++j) {
      importance[routed.chosen[t * top_k + j]] += routed.weights[t * top_k + j];
    }
    for (int64_t e = 0; e < experts; ++e) {
      if (top_k == experts) {  // every token takes them all: counted, as there is no next best
        load[e] += 1;
        continue;
      }
      // What it would have to exceed, itself left out.
      const bool within = noisy[e] > sorted[top_k];
      const double rival = within ? sorted[top_k] : sorted[top_k - 1];
      const int64_t at = t * experts + e;
      load[e] += NormalCdf((clean[at] - rival) / deviations[at]);
    }
  }
  return SquaredVariation(importance) + SquaredVariation(load);
}

}  // namespace qianyi
