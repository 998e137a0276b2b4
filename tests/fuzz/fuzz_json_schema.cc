// The input is a seed byte and a schema. What compiles constrains: a text written under it that
// ends by itself is JSON that satisfies it.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "runtime/json/json_constraint.h"
#include "tests/runtime/json/validate.h"
#include "tests/runtime/json/walk.h"

namespace {

using namespace qianyi;

struct Vocabulary {
  testing::ByteVocabulary tokens{testing::SomeTokens()};
  TokenTrie trie{tokens};
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Vocabulary vocabulary;
  if (size < 1) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  const OrderedJson json = ParseOrderedJson(text);
  if (json.is_discarded()) return 0;
  auto schema = CompileJsonSchema(json);
  if (!schema.ok()) {
    if (schema.status().message().empty()) __builtin_trap();
    return 0;
  }
  auto constraint = MakeJsonConstraint(vocabulary.trie, *std::move(schema), {0});
  if (!constraint.ok()) __builtin_trap();  // all bytes are tokens
  const auto written = testing::Walk(**constraint, vocabulary.tokens, data[0], 120);
  if (!written.has_value()) return 0;
  const OrderedJson value = ParseOrderedJson(*written);
  if (value.is_discarded() || !testing::Satisfies(value, json, json)) __builtin_trap();
  return 0;
}
