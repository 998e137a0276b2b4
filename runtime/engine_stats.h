// What an engine has done so far.
#pragma once

#include <cstdint>

namespace qianyi {

struct EngineStats {
  int64_t running = 0;  // requests that have a place
  int64_t waiting = 0;  // requests that have none yet
  uint64_t steps = 0;
  uint64_t step_sequences = 0;  // whose logits they computed, each once a step
  uint64_t prompt_tokens = 0;
  uint64_t cached_tokens = 0;  // of prompts, besides: they had been computed for others
  uint64_t generated_tokens = 0;
  uint64_t guessed_tokens = 0;   // ahead of being generated (runtime/guesses.h)
  uint64_t accepted_tokens = 0;  // of these, those that came
  uint64_t branch_tokens = 0;    // of guessed_tokens, those in branches (runtime/branches.h)
  uint64_t accepted_branch_tokens = 0;
  double step_seconds = 0;    // spent in steps
  int step_threads = 0;       // that computed in the last one; 0 on a device
  int64_t pages_used = 0;     // of the cache, by requests that have a place
  int64_t pages_kept = 0;     // by none, until somebody needs them
  int64_t pages_on_disk = 0;  // kept there, in the cache as well or not
  // From the end of the first step, in which the resident set was read, to that of the last.
  uint64_t steady_steps = 0;
  uint64_t steady_read_bytes = 0;
  double steady_seconds = 0;
};

}  // namespace qianyi
