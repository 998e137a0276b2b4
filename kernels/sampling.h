// How a token is drawn from weights, on the host and on a device, and the arguments of the kernel
// that does so where the logits are.
//
// By a race (the exponential form of Gumbel-max): every token has a number u in (0, 1) of its own
// and finishes after -ln(1 - u) / weight; the first one is drawn, each as often as its weight says.
// The numbers depend on the draw and the token, and not on the weights: so two models whose weights
// are alike mostly draw the same (Daliri, Musco, Suresh, arXiv 2408.07978), which is what guesses
// of a draft model live by.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/tensor.h"

#ifdef __CUDACC__
#define QIANYI_HOST_DEVICE __host__ __device__
#else
#define QIANYI_HOST_DEVICE
#endif

namespace qianyi {

// Mixes all bits of x (Wellons, "Prospecting for hash functions", 2018).
QIANYI_HOST_DEVICE inline uint32_t MixBits(uint32_t x, uint32_t add) {
  x ^= x >> 16;
  x *= 0x7feb352du;
  x = (x ^ x >> 15) + add;
  x *= 0x846ca68bu;
  return x ^ x >> 16;
}

// The upper 32 bits of a token's number in the draw of this key.
QIANYI_HOST_DEVICE inline uint32_t RaceNoise(uint64_t key, uint32_t token) {
  return MixBits(token * 0x9e3779b9u + static_cast<uint32_t>(key),
                 static_cast<uint32_t>(key >> 32));
}
// At most that number, by which it cannot finish before RaceAtLeast / weight.
QIANYI_HOST_DEVICE inline float RaceAtLeast(uint32_t noise) {
  return static_cast<float>(static_cast<int32_t>(noise >> 8)) * 0x1p-24f;
}
// When it finishes with the weight 1: by 56 bits of the number, so that rare tokens have their
// share.
QIANYI_HOST_DEVICE inline double RaceFinish(uint64_t key, uint32_t noise) {
  const uint32_t more = MixBits(noise ^ 0x5bf03635u, static_cast<uint32_t>(key)) >> 8;
  return -log1p(-(noise + (more + 0.5) * 0x1p-24) * 0x1p-32);
}
// What RaceAtLeast is compared with, so that rounding excludes nobody: `best` over all others.
QIANYI_HOST_DEVICE inline float RaceBound(double best) {
  return best < 3e38 ? static_cast<float>(best) * 1.000001f : HUGE_VALF;
}

// How one token is drawn from a row of logits: what runtime/sampler.h says of these parameters.
struct TokenDraw {
  float temperature = 1.0f;  // 0: the largest logit; of equals the first
  float top_p = 1.0f;
  float min_p = 0.0f;
  int32_t top_k = 0;  // 0 = all
  uint64_t key = 0;   // of the race
};

struct DrawTokens {
  Tensor logits;                     // [n, vocabulary], f32
  const int32_t* rows = nullptr;     // [count], of logits
  const TokenDraw* draws = nullptr;  // [count]
  int64_t count = 0;
  int32_t* tokens = nullptr;  // [count]; 0 when no logit is above -infinity
};

}  // namespace qianyi
