#include "runtime/sampler.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>

#include "absl/strings/str_format.h"
#include "runtime/sampler_math.h"

namespace qianyi {
namespace {

constexpr size_t kMaxBiases = 1024;
constexpr int32_t kMaxLogprobs = 20;

absl::Status OutOfRange(const char* field, double value, const char* range) {
  return absl::InvalidArgumentError(
      absl::StrFormat("%s is %g; it must be %s", field, value, range));
}

bool Within(float value, float low, float high) { return value >= low && value <= high; }

}  // namespace

absl::Status Validate(const SamplingParams& params, int64_t vocab_size) {
  // Written so that NaN fails each of them.
  if (!Within(params.temperature, 0, 100)) {
    return OutOfRange("temperature", params.temperature, "from 0 to 100");
  }
  if (params.top_k < 0) return OutOfRange("top_k", params.top_k, "0 (off) or more");
  if (!(params.top_p > 0 && params.top_p <= 1)) {
    return OutOfRange("top_p", params.top_p, "above 0 and at most 1");
  }
  if (!(params.min_p >= 0 && params.min_p < 1)) {
    return OutOfRange("min_p", params.min_p, "at least 0 and below 1");
  }
  if (!(params.repetition_penalty > 0 && params.repetition_penalty <= 10)) {
    return OutOfRange("repetition_penalty", params.repetition_penalty, "above 0 and at most 10");
  }
  if (!Within(params.presence_penalty, -10, 10)) {
    return OutOfRange("presence_penalty", params.presence_penalty, "from -10 to 10");
  }
  if (!Within(params.frequency_penalty, -10, 10)) {
    return OutOfRange("frequency_penalty", params.frequency_penalty, "from -10 to 10");
  }
  if (params.logprobs < 0 || params.logprobs > kMaxLogprobs) {
    return OutOfRange("logprobs", params.logprobs, "from 0 to 20");
  }
  if (params.logit_bias.size() > kMaxBiases) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "logit_bias has %d entries; at most %d are allowed", params.logit_bias.size(), kMaxBiases));
  }
  for (const auto& [token, bias] : params.logit_bias) {
    if (token < 0 || token >= vocab_size) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "logit_bias has the token %d; tokens of this model are 0 to %d", token, vocab_size - 1));
    }
    if (!Within(bias, -100, 100)) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "logit_bias of token %d is %g; it must be from -100 to 100", token, bias));
    }
  }
  return absl::OkStatus();
}

Sampler::Sampler(int64_t vocab_size)
    : weights_(static_cast<size_t>(vocab_size)),
      tokens_(static_cast<size_t>(vocab_size)),
      scratch_(static_cast<size_t>(vocab_size)),
      unmodified_(static_cast<size_t>(vocab_size)),
      counts_(static_cast<size_t>(vocab_size)) {}

void Sampler::Sample(const SamplingParams& params, std::span<float> logits,
                     std::span<const int32_t> history, uint64_t index, SampledToken* out) {
  const bool modifies = !params.logit_bias.empty() || HasPenalties(params);
  if (WantsLogprobs(params) && modifies && !remembered_) Remember(logits);
  const std::span<const float> original =
      remembered_ ? std::span<const float>(unmodified_).first(logits.size()) : logits;
  remembered_ = false;
  Modify(params, logits, history);
  if (params.temperature == 0) {
    out->token = IndexOfLargest(logits);
  } else {
    Filter(params, logits);
    const int64_t drawn = Run(DrawKey(params.seed, index), -1).index;
    out->token = drawn < 0 ? 0 : Token(drawn);
  }
  Report(params, original, out);
}

RaceWinner Sampler::Run(uint64_t key, int64_t without) const {
  return Race(Candidates(), listed_ ? tokens_.data() : nullptr, key, without);
}

SecondChoice Sampler::Second(const SamplingParams& params, std::span<float> logits, uint64_t index,
                             int32_t first) {
  const auto place = static_cast<size_t>(first);
  if (params.temperature == 0) {
    const float best = std::exchange(logits[place], -kFloatInfinity);
    const int32_t second = IndexOfLargest(logits);
    const float gap = best - logits[static_cast<size_t>(second)];
    return std::isfinite(gap) ? SecondChoice{second, gap} : SecondChoice{};
  }
  if (WantsLogprobs(params)) Filter(params, logits);  // else the candidates are still there
  const uint64_t key = DrawKey(params.seed, index);
  const RaceWinner winner = Run(key, -1), second = Run(key, winner.index);
  if (second.index < 0) return {};
  return {Token(second.index), static_cast<float>(std::log(second.finish / winner.finish))};
}

void Sampler::Remember(std::span<const float> logits) {
  std::copy(logits.begin(), logits.end(), unmodified_.begin());
  remembered_ = true;
}

void Sampler::Report(const SamplingParams& params, std::span<const float> original,
                     SampledToken* out) {
  out->logprob = 0;
  out->top.clear();
  if (!WantsLogprobs(params)) return;
  ReportTop(original, params.logprobs, &out->top);
  const float largest = Largest(original);
  SoftmaxWeights(original, largest, 1.0f, weights_.data());
  const double log_sum = std::log(Sum(std::span(weights_).first(original.size())));
  // With an infinite logit, those that have it share the whole.
  const auto logprob = [&](int32_t token) {
    const float logit = original[static_cast<size_t>(token)];
    if (std::isnan(logit) || logit == -kFloatInfinity) return -kFloatInfinity;
    if (largest == kFloatInfinity) {
      return logit == kFloatInfinity ? static_cast<float>(-log_sum) : -kFloatInfinity;
    }
    return static_cast<float>(static_cast<double>(logit) - static_cast<double>(largest) - log_sum);
  };
  out->logprob = logprob(out->token);
  for (TokenLogprob& entry : out->top) entry.logprob = logprob(entry.token);
}

void Sampler::Probabilities(const SamplingParams& params, std::span<float> logits,
                            std::span<const int32_t> history, std::span<float> out) {
  Modify(params, logits, history);
  std::fill(out.begin(), out.end(), 0.0f);
  if (params.temperature > 0) {
    Filter(params, logits);
    const double sum = Sum(Candidates());
    for (int64_t i = 0; i < candidates_; ++i) {
      const double weight = weights_[static_cast<size_t>(i)];
      out[static_cast<size_t>(Token(i))] = static_cast<float>(weight / sum);
    }
    if (sum > 0) return;
  }
  out[static_cast<size_t>(IndexOfLargest(logits))] = 1.0f;
}

void Sampler::Modify(const SamplingParams& params, std::span<float> logits,
                     std::span<const int32_t> history) {
  for (const auto& [token, bias] : params.logit_bias) logits[static_cast<size_t>(token)] += bias;
  if (HasPenalties(params)) Penalize(params, logits, history);
}

void Sampler::Penalize(const SamplingParams& params, std::span<float> logits,
                       std::span<const int32_t> history) {
  const auto known = [&](int32_t token) {
    return token >= 0 && static_cast<size_t>(token) < logits.size();
  };
  for (const int32_t token : history) {
    if (known(token)) ++counts_[static_cast<size_t>(token)];
  }
  for (const int32_t token : history) {
    if (!known(token)) continue;
    int32_t& count = counts_[static_cast<size_t>(token)];
    if (count == 0) continue;  // already done
    float& logit = logits[static_cast<size_t>(token)];
    logit = logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
    logit -= params.presence_penalty + params.frequency_penalty * static_cast<float>(count);
    count = 0;
  }
}

// The tokens of the largest logits, best first; equals in the order of their ids.
void Sampler::ReportTop(std::span<const float> logits, int32_t count,
                        std::vector<TokenLogprob>* top) {
  if (count <= 0) return;
  top->reserve(static_cast<size_t>(count));  // a Sink has done so before
  constexpr size_t kBlock = 256;
  for (size_t begin = 0; begin < logits.size(); begin += kBlock) {
    const std::span<const float> block =
        logits.subspan(begin, std::min(kBlock, logits.size() - begin));
    const bool full = top->size() == static_cast<size_t>(count);
    if (full && !(Largest(block) > top->back().logprob)) continue;
    for (size_t i = 0; i < block.size(); ++i) {
      const float logit = block[i];
      if (std::isnan(logit)) continue;
      if (top->size() == static_cast<size_t>(count)) {
        if (!(logit > top->back().logprob)) continue;
        top->pop_back();
      }
      const auto place = std::upper_bound(
          top->begin(), top->end(), logit,
          [](float value, const TokenLogprob& entry) { return value > entry.logprob; });
      top->insert(place, {static_cast<int32_t>(begin + i), logit});
    }
  }
}

// Of the candidates, whose values are `from`, drops those below `floor`, and those at it but
// for the first `equal`; the values of the others become the weights.
void Sampler::Keep(std::span<const float> from, float floor, int64_t equal) {
  constexpr size_t kBlock = 64;
  size_t kept = 0;
  for (size_t begin = 0; begin < from.size(); begin += kBlock) {
    const std::span<const float> block = from.subspan(begin, std::min(kBlock, from.size() - begin));
    if (Largest(block) < floor) continue;
    for (size_t i = begin; i < begin + block.size(); ++i) {
      // Written without a branch, whose outcome nobody can foresee here.
      const float value = from[i];
      const bool at_floor = value == floor;
      const bool stays = (value > floor) | (at_floor & (equal > 0));
      equal -= at_floor;
      weights_[kept] = value;
      tokens_[kept] = listed_ ? tokens_[i] : static_cast<int32_t>(i);
      kept += stays;
    }
  }
  candidates_ = static_cast<int64_t>(kept);
  listed_ = true;
}

// Leaves in weights_ what may be drawn: nothing when there is no logit above -infinity.
void Sampler::Filter(const SamplingParams& params, std::span<const float> logits) {
  const float largest = Largest(logits);
  candidates_ = static_cast<int64_t>(logits.size());
  listed_ = false;
  if (largest == -kFloatInfinity) {
    candidates_ = 0;
    return;
  }
  if (params.top_k > 0 && params.top_k < candidates_) {
    Keep(logits, KthLargest(logits, params.top_k, scratch_.data()), candidates_);
    SoftmaxWeights(Candidates(), largest, params.temperature, weights_.data());
  } else {
    SoftmaxWeights(logits, largest, params.temperature, weights_.data());
  }
  // The best token has the weight 1.
  if (params.min_p > 0) Keep(Candidates(), params.min_p, candidates_);
  if (params.top_p < 1) {
    const double sum = Sum(Candidates());
    const double mass = static_cast<double>(params.top_p) * sum;
    // Weights so small that all of them together are less than what top-p drops go first.
    const double dropped = (sum - mass) / static_cast<double>(candidates_);
    Keep(Candidates(), static_cast<float>(0.99 * dropped), candidates_);
    const MassCut cut = CutByMass(Candidates(), mass, scratch_.data());
    Keep(Candidates(), cut.floor, cut.equal);
  }
}

}  // namespace qianyi
