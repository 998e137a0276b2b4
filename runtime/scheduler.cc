#include "runtime/scheduler.h"

#include <algorithm>

#include "kernels/backend.h"

namespace qianyi {
namespace {

void AddTokens(Sequence& sequence, int32_t index, int32_t count, Step* step) {
  for (int32_t i = 0; i < count; ++i) {
    const int32_t at = sequence.cached + i;
    step->tokens.push_back(sequence.tokens[at]);
    step->positions[0].push_back(sequence.positions[0][at]);
    step->positions[1].push_back(sequence.positions[1][at]);
    const int32_t slot = sequence.prefix_slots + at;
    step->slots.push_back(int64_t{sequence.pages[slot / kPageTokens]} * kPageTokens +
                          slot % kPageTokens);
    step->visible.push_back(sequence.prefix_slots + std::max(sequence.bidirectional, at + 1));
    step->pages.push_back(sequence.pages.data());
    step->adapters.push_back(sequence.adapter);
    step->sequences.push_back(index);
  }
  sequence.cached += count;
  step->wants_hidden |= sequence.pooled;
  if (sequence.pending() > 0 || sequence.pooled) return;
  const int32_t size = static_cast<int32_t>(step->size());
  for (int32_t at = size - 1 - sequence.guessed; at < size; ++at) step->logit_tokens.push_back(at);
}

// How many pending tokens of a prompt may ride when there is room for `room`.
int32_t PromptShare(const Sequence& sequence, int64_t room) {
  const int64_t share = std::min<int64_t>(sequence.pending(), room);
  const bool splits_context = sequence.cached + share < sequence.bidirectional;
  return splits_context ? 0 : static_cast<int32_t>(share);
}

}  // namespace

void ScheduleStep(std::span<Sequence* const> sequences, std::span<const int> order,
                  const SchedulerLimits& limits, Step* step) {
  step->Clear();
  for (const int index : order) {
    Sequence& sequence = *sequences[index];
    const int32_t at_once = sequence.again + 1 + sequence.guessed;
    if (sequence.pending() == at_once) AddTokens(sequence, index, at_once, step);
  }
  int64_t room = limits.prompt_tokens;
  for (const int index : order) {
    Sequence& sequence = *sequences[index];
    if (room == 0) break;
    if (sequence.pending() == 0) continue;  // chosen above
    const int32_t share = PromptShare(sequence, room);
    if (share == 0) break;
    AddTokens(sequence, index, share, step);
    room -= share;
  }
}

}  // namespace qianyi
