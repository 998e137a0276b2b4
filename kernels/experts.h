// Arguments of the kernels for mixtures of experts.
#pragma once

#include <cstdint>

#include "kernels/tensor.h"

namespace qianyi {

inline constexpr int64_t kMaxExpertGroups = 256;
inline constexpr int64_t kMostGroupedExperts = 4096;  // of GroupChoices

enum class RouterGate : uint8_t {
  // Of score + correction, the best top_k in the best groups; the weights are the scores
  // σ(logit), over their sum + 1e-20 when `normalize`, times `scale`. A group's score is the sum of
  // its best two. Glm4Moe and DeepSeek-V3 (arXiv:2412.19437).
  kSigmoid,
  kNaive,   // the best top_k logits; the weights are the softmax of these alone (FastMoE)
  kSwitch,  // the best one; its weight is the softmax of all (Fedus et al., arXiv:2101.03961)
};

// Which experts each token goes to. logits[t, e] = Σ_k x[t, k] weight[e, k] + bias[e] + noise[t,
// e]. Ties go to the lower expert; a token's choices are in descending order. Reduction order:
// docs/numerics.md.
struct Route {
  RouterGate gate = RouterGate::kSigmoid;
  Tensor x;                           // [tokens, cols]
  const float* weight = nullptr;      // [experts, cols]
  const float* bias = nullptr;        // [experts] or null
  const float* noise = nullptr;       // [tokens, experts] or null: what gates in training add
  const float* correction = nullptr;  // [experts] or null; kSigmoid only
  int64_t experts = 0;
  int64_t top_k = 1;   // 1 of kSwitch
  int64_t groups = 1;  // kSigmoid only: of experts / groups neighbours, two at least
  int64_t kept_groups = 1;
  bool normalize = false;
  float scale = 1.0f;
  // What looks at the batch, and hence makes a token's result depend on its neighbours: off unless
  // asked for. Choices beyond `capacity` of an expert, counted token by token, are dropped; then
  // the second of two whose doubled weight is below the token's number in `uniform` (GShard,
  // arXiv:2006.16668). A dropped choice is -1 and keeps its weight.
  int64_t capacity = 0;            // 0 = none
  const float* uniform = nullptr;  // [tokens] or null
  float* scores = nullptr;         // [tokens, 2 * experts], scratch
  int32_t* chosen = nullptr;       // [tokens, top_k]
  float* weights = nullptr;        // [tokens, top_k]

  friend bool operator==(const Route&, const Route&) = default;
};

// Rows [begin, end) of the sorted choices, all of one expert; -1: none.
struct ExpertTile {
  int32_t expert = -1;
  int32_t begin = 0;
  int32_t end = 0;
};
// How many there may be.
inline int64_t ExpertTiles(int64_t choices, int64_t experts, int64_t tile_rows) {
  const int64_t tiles = experts + choices / tile_rows;
  return tiles < choices ? tiles : choices;
}

// Sorts choices by expert, and those of one expert by token, and cuts them into tiles.
struct GroupChoices {
  const int32_t* chosen = nullptr;  // [tokens, top_k], of experts [0, experts)
  int64_t tokens = 0;
  int64_t top_k = 1;
  int64_t experts = 0;            // at most kMostGroupedExperts
  int64_t tile_rows = 8;          // at most; 8, 16 or 32
  int32_t* row_tokens = nullptr;  // [tokens * top_k]: the token of each sorted choice
  int32_t* places = nullptr;      // [tokens, top_k]: where each choice is among the sorted
  ExpertTile* tiles = nullptr;    // [ExpertTiles()]

  friend bool operator==(const GroupChoices&, const GroupChoices&) = default;
};

// out[t, :] += Σ_j weights[t, j] rows[ids[t, j], :], the sum in order of j. Negative ids add
// nothing.
struct Combine {
  Tensor rows;                     // [n, cols]
  const int32_t* ids = nullptr;    // [tokens, count]
  const float* weights = nullptr;  // [tokens, count]
  int64_t count = 0;
  Tensor out;  // [tokens, cols]

  friend bool operator==(const Combine&, const Combine&) = default;
};

}  // namespace qianyi
