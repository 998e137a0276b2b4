// A JSON schema, compiled into what a machine over bytes follows.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/chat/chat_json.h"

namespace qianyi {

// A value is one of several alternatives, each a node. All texts that the machine lets pass are
// valid; not all valid ones pass: properties come in the order of the schema, others after them.
struct JsonSchema {
  static constexpr int32_t kNone = -1;
  static constexpr int32_t kUnlimited = std::numeric_limits<int32_t>::max();
  static constexpr int32_t kMaxHeight = 32;  // objects and lists within each other

  enum class Kind : uint8_t { kObject, kArray, kString, kNumber, kInteger, kLiterals };

  struct Key {
    std::string text;  // as in JSON, with the quote that ends it
    int32_t property = 0;
  };

  struct Node {
    Kind kind = Kind::kLiterals;
    int32_t height = 0;  // the least that it can be written with
    // Of a list: items; of a string: characters.
    int32_t least = 0, most = kUnlimited;
    int32_t items = kNone;  // value of each
    // Of an object.
    std::vector<int32_t> properties;  // values
    std::vector<int32_t> required;    // [properties + 1]: the first one from there on, or the end
    std::vector<Key> keys;            // sorted by their texts
    int32_t additional = kNone;       // value of others; kNone: there are none
    // What stands there itself, sorted.
    std::vector<std::string> literals;
  };

  std::vector<Node> nodes;
  std::vector<std::vector<int32_t>> values;  // their alternatives
  std::vector<int32_t> heights;              // of values
  int32_t root = 0;
  std::string needed;  // characters that a vocabulary must be able to write
};

// Keywords: type, properties, required, additionalProperties, items, minItems, maxItems, minLength,
// maxLength, enum, const, anyOf, $ref to # and #/$defs/NAME, and $defs at the root; what only
// describes is passed over (title, description, default, examples, …), and everything else is
// InvalidArgument by name. So is what is too large (nodes, depth, bytes) or can never be satisfied.
// Time is linear in the schema.
absl::StatusOr<JsonSchema> CompileJsonSchema(const OrderedJson& schema);
// Any object.
JsonSchema AnyJsonObject();

}  // namespace qianyi
