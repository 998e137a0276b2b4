// The part of a step's working memory that layers of experts use.
#pragma once

#include <cstdint>

#include "kernels/backend.h"

namespace qianyi {

// Working memory of layers of experts; empty when the model has none.
struct ExpertBuffers {
  // Steps of more tokens are not looked ahead of: what one token will need is worth guessing.
  static constexpr int64_t kForeseenTokens = 8;
  float* scores = nullptr;      // [tokens, 2 * per_layer]
  int32_t* chosen = nullptr;    // [tokens, per_token]
  float* weights = nullptr;     // [tokens, per_token]
  int32_t* foreseen = nullptr;  // [kForeseenTokens, per_token]
  float* foreseen_weights = nullptr;
  float* input = nullptr;         // [tokens, hidden_size]: rows of one expert
  float* output = nullptr;        // [tokens * per_token, hidden_size]: of every choice
  int32_t* rows = nullptr;        // [tokens * per_token]: choices by expert; then row of each
  int32_t* row_tokens = nullptr;  // [tokens * per_token]: their tokens
  int32_t* begin = nullptr;       // [per_layer + 1]: where an expert's begin
  int32_t* active = nullptr;      // [per_layer]
};

// The same where experts are on a device, which tells nobody who was chosen.
struct DeviceExpertBuffers {
  float* scores = nullptr;        // [tokens, 2 * per_layer]
  int32_t* chosen = nullptr;      // [tokens, per_token]
  float* weights = nullptr;       // [tokens, per_token]
  int32_t* row_tokens = nullptr;  // [tokens * per_token]
  int32_t* places = nullptr;      // [tokens, per_token]
  ExpertTile* tiles = nullptr;    // as many as choices: there are no more
  float* gate = nullptr;          // [tokens * per_token, ffn]
  float* up = nullptr;            // likewise
  float* output = nullptr;        // [tokens * per_token, hidden_size]
  QuantizedRows quantized;        // [tokens * per_token, ffn]
};

}  // namespace qianyi
