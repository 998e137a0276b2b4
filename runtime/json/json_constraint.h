// Keeps an answer to a JSON schema while it is sampled.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/constraint.h"
#include "runtime/json/json_schema.h"
#include "runtime/json/token_trie.h"

namespace qianyi {

// What is written until an end token is valid JSON that satisfies the schema. `trie` outlives it.
// InvalidArgument when the vocabulary lacks a character that the schema needs, or there is no end
// token. A mask costs little: a walk through the tree that leaves what cannot go on at once, takes
// strings' text as a whole, and is bounded.
absl::StatusOr<std::unique_ptr<Constraint>> MakeJsonConstraint(const TokenTrie& trie,
                                                               JsonSchema schema,
                                                               std::vector<int32_t> end_tokens);

}  // namespace qianyi
