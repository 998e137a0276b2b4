// Chooses the tokens of the next step. Pure: it looks at sequences and limits, nothing else.
#pragma once

#include <cstdint>
#include <span>

#include "runtime/sequence.h"
#include "runtime/step.h"

namespace qianyi {

struct SchedulerLimits {
  int64_t prompt_tokens = 512;  // of all prompts together in one step
};

// Fills `step` from those of `sequences` that `order` names, oldest first:
//   1. every sequence with one pending token gets it in, and its guesses with it, and so does every
//      branch (runtime/branches.h);
//   2. the room for prompts goes to the others in order. A causal prompt is cut where the
//      room ends; a bidirectional context rides whole or waits, and holds back those behind it
//      so that it cannot starve.
// A bidirectional context longer than `prompt_tokens` must have been refused on admission.
// Advances `cached` of the sequences it chose; logits are asked for where nothing is pending and
// of guesses, or hidden states where those are wanted instead.
void ScheduleStep(std::span<Sequence* const> sequences, std::span<const int> order,
                  const SchedulerLimits& limits, Step* step);

}  // namespace qianyi
