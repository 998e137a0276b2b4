// From logits to one token. Pure: the same logits, parameters and history give the same token.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "runtime/sampler_math.h"

namespace qianyi {

// Defaults leave the model's distribution as it is; temperature 0 is greedy.
struct SamplingParams {
  float temperature = 1.0f;         // 0..100
  int32_t top_k = 0;                // 0 = off
  float top_p = 1.0f;               // (0, 1]
  float min_p = 0.0f;               // [0, 1): relative to the best token
  float repetition_penalty = 1.0f;  // (0, 10]: divides positive, multiplies negative logits
  float presence_penalty = 0.0f;    // [-10, 10]: once per token that occurred
  float frequency_penalty = 0.0f;   // [-10, 10]: times its count
  uint64_t seed = 0;
  int32_t logprobs = 0;  // alternatives to report, 0..20
  bool report_logprob = false;
  bool report_unmasked = false;  // of the model's own distribution, where a constraint narrows it
  std::vector<std::pair<int32_t, float>> logit_bias = {};  // at most 1,024, each [-100, 100]
};

inline bool WantsLogprobs(const SamplingParams& params) {
  return params.report_logprob || params.logprobs > 0;
}
inline bool HasPenalties(const SamplingParams& params) {
  return params.repetition_penalty != 1.0f || params.presence_penalty != 0.0f ||
         params.frequency_penalty != 0.0f;
}
// Whether a token comes of the logits as they are, and nothing else is asked about them: then it
// can be drawn where they are (kernels/sampling.h).
inline bool IsPlain(const SamplingParams& params) {
  return params.logit_bias.empty() && !HasPenalties(params) && !WantsLogprobs(params);
}
// InvalidArgument that names the field, its value and the limit.
absl::Status Validate(const SamplingParams& params, int64_t vocab_size);

struct TokenLogprob {
  int32_t token = 0;
  float logprob = 0.0f;  // natural log, of the unmodified distribution
};

struct SampledToken {
  int32_t token = 0;
  float logprob = 0.0f;
  std::vector<TokenLogprob> top;  // params.logprobs of them, best first
};

// What would have been taken if another token had not been, and how far that one was ahead of it:
// in logits over the temperature, those of the random numbers included.
struct SecondChoice {
  int32_t token = -1;  // there is none
  float gap = 0.0f;
};

// Owns scratch for one vocabulary; allocates only in its constructor (and `out->top`, whose
// capacity is kept). One thread.
class Sampler {
 public:
  explicit Sampler(int64_t vocab_size);

  // `params` pass Validate. `logits` [vocab_size] may be overwritten. `history`: the prompt and
  // generated tokens the penalties look at; ids outside the vocabulary are passed over. `index`
  // counts the request's sampled tokens: the random numbers are a function of (seed, index) and the
  // token alone (kernels/sampling.h), so neither batch nor thread can change them.
  //
  // Order: bias, penalties, temperature, top-k, min-p, top-p, draw. Top-k keeps all tokens that
  // tie with the k-th, as the original CogView does; top-p keeps those before which the sum does
  // not exceed p, so the first one past p stays. Otherwise ties go to the lower id. A NaN logit
  // is never taken; when all are NaN or -infinity the token is 0 with logprob -infinity.
  void Sample(const SamplingParams& params, std::span<float> logits,
              std::span<const int32_t> history, uint64_t index, SampledToken* out);
  // The second choice of the last Sample, with the same parameters, the logits that it left, and
  // what it took, which loses its logit.
  SecondChoice Second(const SamplingParams& params, std::span<float> logits, uint64_t index,
                      int32_t first);
  // What the next Sample reports logprobs of, instead of the logits it is given: the model's own,
  // before something masks them.
  void Remember(std::span<const float> logits);

  // The distribution Sample draws from, as `out` [vocab_size]; greedy gives one token all.
  void Probabilities(const SamplingParams& params, std::span<float> logits,
                     std::span<const int32_t> history, std::span<float> out);

 private:
  void Modify(const SamplingParams& params, std::span<float> logits,
              std::span<const int32_t> history);
  void Penalize(const SamplingParams& params, std::span<float> logits,
                std::span<const int32_t> history);
  void Report(const SamplingParams& params, std::span<const float> original, SampledToken* out);
  void ReportTop(std::span<const float> logits, int32_t count, std::vector<TokenLogprob>* top);
  void Filter(const SamplingParams& params, std::span<const float> logits);
  std::span<const float> Candidates() const {
    return std::span(weights_).first(static_cast<size_t>(candidates_));
  }
  int32_t Token(int64_t candidate) const {
    return listed_ ? tokens_[static_cast<size_t>(candidate)] : static_cast<int32_t>(candidate);
  }
  void Keep(std::span<const float> from, float floor, int64_t equal);
  RaceWinner Run(uint64_t key, int64_t without) const;

  // What may be drawn: weights_[i] is of token i, or of tokens_[i] when listed_.
  std::vector<float> weights_;
  std::vector<int32_t> tokens_;
  int64_t candidates_ = 0;
  bool listed_ = false;
  std::vector<float> scratch_;
  std::vector<float> unmodified_;  // the logits as they came, when they are still needed
  bool remembered_ = false;        // those of the next Sample
  std::vector<int32_t> counts_;    // zero between calls
};

}  // namespace qianyi
