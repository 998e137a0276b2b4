// One pass over the model: a flat list of tokens of many sequences, each with all that
// the kernels need to know of it. Nothing is derived from the cache's length.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/sampling.h"

namespace qianyi {

class Adapter;

// Attention of a step over chosen slots, which differ from layer to layer.
struct SparseStep {
  struct Layer {
    std::vector<int32_t> slots;    // of all tokens, one list after the other; pivots lead each
    std::vector<int64_t> offsets;  // [tokens + 1]
    std::vector<int32_t> pivots;   // [tokens]
  };
  std::vector<Layer> layers;
  float pivot_bias = 0.0f;
};

struct Step {
  // Per token.
  std::vector<int32_t> tokens;
  std::vector<int32_t> positions[2];
  std::vector<int64_t> slots;            // page * kPageTokens + offset in the page
  std::vector<int32_t> visible;          // leading slots of its sequence that it may see
  std::vector<const int32_t*> pages;     // page table of its sequence
  std::vector<const Adapter*> adapters;  // of its sequence, or null
  std::vector<int32_t> sequences;        // index in the list given to the scheduler

  // Tokens whose logits are wanted (indices into the above), in order.
  std::vector<int32_t> logit_tokens;

  // How a device draws from them, as far as it may: those of temperature < 0, and all where this is
  // empty, are the host's, which gets their logits.
  std::vector<TokenDraw> draws;

  bool wants_hidden = false;  // the final hidden states of all tokens

  // Set: attention is over these slots instead of the leading `visible` ones. Not owned.
  const SparseStep* sparse = nullptr;

  explicit Step(int64_t max_tokens) {
    for (auto* v : {&tokens, &positions[0], &positions[1], &visible, &sequences, &logit_tokens}) {
      v->reserve(max_tokens);
    }
    draws.reserve(max_tokens);
    slots.reserve(max_tokens);
    pages.reserve(max_tokens);
    adapters.reserve(max_tokens);
  }
  int64_t size() const { return static_cast<int64_t>(tokens.size()); }
  void Clear() {
    for (auto* v : {&tokens, &positions[0], &positions[1], &visible, &sequences, &logit_tokens}) {
      v->clear();
    }
    draws.clear();
    slots.clear();
    pages.clear();
    adapters.clear();
    wants_hidden = false;
  }
};

}  // namespace qianyi
