// One generation as the engine sees it: what is known, what is cached, what comes next.
#pragma once

#include <cstdint>
#include <vector>

namespace qianyi {

class Adapter;

// One stretch of tokens to generate. Token k fed within it (the start token, if any, is
// k = 0) stands at position[i] + k * stride[i].
struct Blank {
  int32_t start_token = -1;  // fed first, e.g. <|startofpiece|>; -1: continue the prompt
  int32_t mask = -1;         // index of the mask token it fills, if there is one
  int32_t position[2] = {0, 0};
  int32_t stride[2] = {0, 0};
};

// A prompt as its model laid it out. Positions may repeat and run in two rows (GLM).
struct Prompt {
  std::vector<int32_t> tokens;
  std::vector<int32_t> positions[2];
  int32_t bidirectional = 0;  // the first tokens that all tokens see ("sep")
  std::vector<Blank> blanks;  // at least one, filled in order over one cache
  // Instead, what was generated takes its mask's place and the whole is encoded afresh for the
  // next blank. Then the tokens are the context alone, at positions 0, 1, … of the first row, and a
  // blank's position counts on as masks before it grow.
  bool refill = false;
  // Instead of an open end, what the one blank fills (a picture's codes): -1 is a place to be
  // generated, and so is the first; other ids are given and fed when their turn comes.
  std::vector<int32_t> continuation;
  std::vector<int32_t> continuation_positions;  // of each, in the first row; the second's are 0
};

// Tokens known so far, of which the first `cached` have been through the model. Capacity is
// reserved on admission, so appending never allocates.
struct Sequence {
  std::vector<int32_t> tokens;
  std::vector<int32_t> positions[2];
  int32_t bidirectional = 0;
  int32_t cached = 0;
  int32_t guessed = 0;  // of the tokens, the last: not known, but computed to see whether they come
  int32_t again = 0;    // of a branch, the first: another sequence of the step has them as well
  std::vector<int32_t> pages;  // of the key-value cache
  bool pooled = false;         // its final hidden states are wanted, and no logits
  // What it runs with besides the model, or null; whoever owns the sequence keeps it alive.
  const Adapter* adapter = nullptr;
  int32_t prefix_slots = 0;  // of the adapter, before its own: they take no positions

  int32_t pending() const { return static_cast<int32_t>(tokens.size()) - cached; }
  void Append(int32_t token, int32_t position0, int32_t position1) {
    tokens.push_back(token);
    positions[0].push_back(position0);
    positions[1].push_back(position1);
  }
};

}  // namespace qianyi
