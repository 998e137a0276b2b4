// What a caller asks of an engine, and how engines are set up.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "runtime/fair_clock.h"
#include "runtime/sampler.h"
#include "runtime/sequence.h"

namespace qianyi {

class Adapter;

struct GenerateRequest {
  Prompt prompt;  // from Model::LayOut
  SamplingParams sampling;
  int32_t max_tokens = 256;                          // of each blank
  std::vector<int32_t> end_tokens;                   // a blank stops before any of these
  std::shared_ptr<const Adapter> adapter = nullptr;  // of this engine's adapters(); null = none
  Turn turn = {};                                    // on whose account it waits for a place
};

struct EngineOptions {
  int64_t queue = 64;  // requests that may wait, besides those that run; candidates count each
  bool keeps_prefixes = true;   // for requests that begin with the same tokens (PrefixCache)
  bool always_guesses = false;  // also where that is slower
  double prompt_stretch = 4;    // of a step in which others generate; 0: no limit (PromptRoom)
};

}  // namespace qianyi
