// From logits to one token. Pure: the same logits, parameters and history give the same token.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"

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
  std::vector<std::pair<int32_t, float>> logit_bias;  // at most 1,024, each [-100, 100]
};

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

// Owns scratch for one vocabulary; allocates only in its constructor. One thread.
class Sampler {
 public:
  explicit Sampler(int64_t vocab_size);

  // `logits` [vocab_size] may be overwritten. `history`: the prompt and generated tokens the
  // penalties look at. `index` counts the request's sampled tokens: the random number is a
  // function of (seed, index) alone, so neither batch nor thread can change it.
  // Order: bias, penalties, temperature, top-k, min-p, top-p, draw. Ties go to the lower id.
  void Sample(const SamplingParams& params, std::span<float> logits,
              std::span<const int32_t> history, uint64_t index, SampledToken* out);

 private:
  std::vector<int32_t> order_;
  std::vector<float> probabilities_;
  std::vector<int32_t> counts_;
};

}  // namespace qianyi
