// Sequences for tests of the prefix cache.
#pragma once

#include <cstdint>

#include "runtime/kv_cache.h"
#include "runtime/sequence.h"

namespace qianyi {

inline constexpr KvSpec kSmallKv = {.layers = 2, .heads = 2, .key_dim = 8, .value_dim = 8};

// Tokens first, first + 1, … at positions 0, 1, …
inline Sequence Counting(int32_t tokens, int32_t first = 0) {
  Sequence sequence;
  for (int32_t i = 0; i < tokens; ++i) sequence.Append(first + i, i, 0);
  return sequence;
}

}  // namespace qianyi
