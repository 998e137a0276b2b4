#include "runtime/json/json_constraint.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "runtime/json/json_machine.h"
#include "tests/runtime/json/validate.h"
#include "tests/runtime/json/walk.h"
#include "tests/runtime/verse/allocations.h"

namespace qianyi {
namespace {

using testing::ByteVocabulary;

JsonSchema Compiled(const std::string& text) {
  const OrderedJson json = ParseOrderedJson(text);
  EXPECT_FALSE(json.is_discarded()) << text;
  auto schema = CompileJsonSchema(json);
  EXPECT_TRUE(schema.ok()) << text << schema.status();
  return *std::move(schema);
}

std::unique_ptr<Constraint> Make(const TokenTrie& trie, const std::string& schema) {
  auto constraint = MakeJsonConstraint(trie, Compiled(schema), {0});
  EXPECT_TRUE(constraint.ok()) << constraint.status();
  return *std::move(constraint);
}

const std::vector<std::string>& Schemas() {
  static const std::vector<std::string> schemas = {
      R"({})",
      R"({"type":"object"})",
      R"({"type":"object","properties":{"name":{"type":"string"},"n":{"type":"integer"}},)"
      R"("required":["name"],"additionalProperties":false})",
      R"({"type":"object","properties":{"a":{"type":"string"},"ab":{"type":"null"},)"
      R"("abc":{"type":"boolean"},"a\"b":{"const":1}},"required":["abc"],)"
      R"("additionalProperties":{"type":"integer"}})",
      R"({"type":"array","items":{"type":"number"},"minItems":2,"maxItems":3})",
      R"({"type":"array","items":{"type":"array","maxItems":1},"minItems":1})",
      R"({"type":"string","minLength":2,"maxLength":4})",
      R"({"type":"string","maxLength":0})",
      R"({"enum":["春","春风","夏",1,12,123,-1,0.5,null,true]})",
      R"({"const":"a\nb\"c\\春"})",
      R"({"anyOf":[{"type":"object","properties":{"kind":{"const":"a"},"x":{"type":"integer"}},)"
      R"("required":["kind","x"],"additionalProperties":false},{"type":"object","properties":)"
      R"({"kind":{"const":"ab"},"y":{"type":"string"}},"required":["kind","y"],)"
      R"("additionalProperties":false},{"type":"null"}]})",
      R"({"type":["integer","null","boolean"]})",
      R"({"$ref":"#/$defs/tree","$defs":{"tree":{"type":"object","properties":{"value":)"
      R"({"type":"integer"},"left":{"$ref":"#/$defs/tree"},"right":{"anyOf":[{"$ref":)"
      R"("#/$defs/tree"},{"type":"null"}]}},"required":["value","right"],)"
      R"("additionalProperties":false}}})",
      R"({"type":"array","items":{"anyOf":[{"type":"string"},{"type":"string","maxLength":3},)"
      R"({"type":"number"},{"type":"integer"}]},"maxItems":4})",
  };
  return schemas;
}

TEST(JsonConstraintTest, WhatEndsByItselfSatisfiesTheSchema) {
  const ByteVocabulary vocabulary(testing::SomeTokens());
  const TokenTrie trie(vocabulary);
  for (const std::string& text : Schemas()) {
    const OrderedJson schema = ParseOrderedJson(text);
    int ended = 0;
    for (uint64_t seed = 0; seed < 60; ++seed) {
      const auto constraint = Make(trie, text);
      const auto written = testing::Walk(*constraint, vocabulary, seed, 400);
      if (!written.has_value()) continue;
      ++ended;
      const OrderedJson value = ParseOrderedJson(*written);
      ASSERT_FALSE(value.is_discarded()) << text << "\n" << *written;
      ASSERT_TRUE(testing::Satisfies(value, schema, schema)) << text << "\n" << *written;
    }
    EXPECT_GT(ended, 5) << text;
  }
}

// Nothing but what every token's bytes, one by one, come to.
TEST(JsonConstraintTest, TheTreeLeavesWhatTheMachineReads) {
  const ByteVocabulary vocabulary(testing::SomeTokens());
  const TokenTrie trie(vocabulary);
  std::vector<float> logits(static_cast<size_t>(vocabulary.vocab_size()));
  for (const std::string& text : Schemas()) {
    const auto constraint = Make(trie, text);
    JsonMachine machine(Compiled(text));
    JsonMachine::Threads written, next, spare;
    machine.Start(&written);
    std::mt19937 random(7);
    for (int i = 0; i < 60; ++i) {
      logits.assign(logits.size(), 0.0f);
      constraint->Mask(logits);
      std::vector<int32_t> left;
      for (int32_t id = 0; id < vocabulary.vocab_size(); ++id) {
        next = written;
        const size_t mark = machine.mark();
        for (const char byte : vocabulary.TokenBytes(id)) {
          machine.Step(next, static_cast<uint8_t>(byte), &spare);
          next = spare;
        }
        machine.Forget(mark);
        const bool reads = id == 0 ? machine.MayEnd(written) : next.count > 0;
        ASSERT_EQ(!std::isinf(logits[size_t(id)]), reads) << text << " token " << id;
        if (reads && id != 0) left.push_back(id);
      }
      if (left.empty()) break;
      const int32_t token = left[random() % left.size()];
      for (const char byte : vocabulary.TokenBytes(token)) {
        machine.Step(written, static_cast<uint8_t>(byte), &spare);
        written = spare;
      }
      machine.Keep(&written);
      constraint->Accept(token);
    }
  }
}

bool Reads(const std::string& schema, const std::string& text) {
  JsonMachine machine(Compiled(schema));
  JsonMachine::Threads written, next;
  machine.Start(&written);
  for (const char byte : text) {
    machine.Step(written, static_cast<uint8_t>(byte), &next);
    written = next;
  }
  return machine.MayEnd(written);
}

TEST(JsonMachineTest, ReadsWhatIsValidAndNothingElse) {
  const std::string object =
      R"({"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"string"}},)"
      R"("required":["b"],"additionalProperties":false})";
  for (const char* good : {R"({"a":1,"b":"x"})", R"({"b":""})",
                           "{\n  \"a\": -0,\n  \"b\": \"\\u00e9\"\n}", R"( {"b":"\\\"春"})"}) {
    EXPECT_TRUE(Reads(object, good)) << good;
  }
  for (const char* bad : {R"({"a":1})", R"({"b":"x","a":1})", R"({"b":"x"}})", R"({"b":"x",})", "{",
                          R"({"b":"x"} )", R"({"b":"\ud800"})", R"({"b":"\x"})", "{\"b\":\"\xC3\"}",
                          R"({"c":1,"b":""})", R"({"a":01,"b":""})", R"({"a":1.0,"b":""})",
                          "{\"b\":\"\t\"}", R"({  "b":""})", R"({"a":1234567890123456,"b":""})"}) {
    EXPECT_FALSE(Reads(object, bad)) << bad;
  }
  const std::string open = R"({"type":"object","properties":{"ab":{"type":"integer"}}})";
  EXPECT_TRUE(Reads(open, R"({"ab":1,"a":null,"abc":[{}],"":"x"})"));
  EXPECT_TRUE(Reads(open, R"({"x":{"ab":"y"}})"));
  EXPECT_FALSE(Reads(open, R"({"x":1,"ab":"y"})"));
  EXPECT_FALSE(Reads(open, R"({"ab":"y"})"));
  EXPECT_FALSE(Reads(open, "{\"a\\u0062\":\"y\"}"));
  const std::string number = R"({"type":"number"})";
  for (const char* good : {"0", "-0.5", "12e3", "1.5E-10", "123456789012345"}) {
    EXPECT_TRUE(Reads(number, good)) << good;
  }
  for (const char* bad : {"", "-", "1.", ".5", "1e", "1e999", "00", "+1", "NaN"}) {
    EXPECT_FALSE(Reads(number, bad)) << bad;
  }
  const std::string any = "{}";
  EXPECT_TRUE(Reads(any, std::string(32, '[') + std::string(32, ']')));
  EXPECT_FALSE(Reads(any, std::string(33, '[') + std::string(33, ']')));
}

TEST(JsonConstraintTest, MasksAndAcceptsWithoutTakingMemory) {
  const ByteVocabulary vocabulary(testing::SomeTokens());
  const TokenTrie trie(vocabulary);
  std::vector<float> logits(static_cast<size_t>(vocabulary.vocab_size()));
  for (const std::string& text : Schemas()) {
    const auto constraint = Make(trie, text);
    const int64_t before = testing::Allocations();
    for (int i = 0; i < 40; ++i) {
      std::fill(logits.begin(), logits.end(), 0.0f);
      constraint->Mask(logits);
      size_t token = logits.size() - 1;
      while (std::isinf(logits[token])) --token;
      if (token == 0) break;
      constraint->Accept(static_cast<int32_t>(token));
    }
    EXPECT_EQ(testing::Allocations(), before) << text;
  }
}

TEST(JsonConstraintTest, TheEndComesWithTheEndOfTheValue) {
  const ByteVocabulary vocabulary({});
  const TokenTrie trie(vocabulary);
  const auto constraint = Make(trie, R"({"const":true})");
  std::vector<float> logits(300, 1.0f);  // more of them than tokens
  for (const char byte : std::string("true")) {
    constraint->Mask(logits);
    for (size_t id = 0; id < logits.size(); ++id) {
      const bool space = id == 1 + ' ' || id == 1 + '\n';
      EXPECT_EQ(!std::isinf(logits[id]),
                id == 1u + static_cast<uint8_t>(byte) || (byte == 't' && space))
          << id;
    }
    constraint->Accept(1 + byte);
    logits.assign(300, 1.0f);
  }
  constraint->Mask(logits);
  EXPECT_EQ(logits[0], 1.0f);
  for (size_t id = 1; id < logits.size(); ++id) EXPECT_TRUE(std::isinf(logits[id])) << id;
  constraint->Accept(1 + 'x');  // as when no logit was a number
  logits.assign(300, 1.0f);
  constraint->Mask(logits);
  EXPECT_EQ(logits[0], 1.0f);
  EXPECT_TRUE(std::isinf(logits[1 + 'x']));
}

// The end of a text is no part of a string, whatever it is called.
TEST(JsonConstraintTest, EndTokensWithATextOnlyEnd) {
  const ByteVocabulary vocabulary({"</s>"});
  const TokenTrie trie(vocabulary);
  auto constraint = MakeJsonConstraint(trie, Compiled(R"({"type":"string"})"), {257});
  ASSERT_TRUE(constraint.ok());
  std::vector<float> logits(258, 0.0f);
  for (const char byte : std::string("\"a\"")) {
    (*constraint)->Mask(logits);
    EXPECT_TRUE(std::isinf(logits[257]));
    (*constraint)->Accept(1 + byte);
    logits.assign(258, 0.0f);
  }
  (*constraint)->Mask(logits);
  EXPECT_EQ(logits[257], 0.0f);
}

// Without single bytes, characters are whole or not at all, and what cannot be written is refused.
TEST(JsonConstraintTest, VocabulariesThatLackCharacters) {
  class Words final : public Tokenizer {
   public:
    absl::StatusOr<std::vector<int32_t>> Encode(std::string_view, bool) const override {
      return absl::UnimplementedError("not for these tests");
    }
    absl::StatusOr<std::string> Decode(std::span<const int32_t>) const override {
      return absl::UnimplementedError("not for these tests");
    }
    std::string_view TokenBytes(int32_t id) const override { return words_[size_t(id)]; }
    std::string_view NextBytes(int32_t id, bool*) const override { return words_[size_t(id)]; }
    int32_t vocab_size() const override { return static_cast<int32_t>(words_.size()); }
    int32_t CommandId(std::string_view) const override { return -1; }

   private:
    const std::vector<std::string> words_ = {"", "\"", "0", "春", "\xE6", "春\"", "夏\xE6"};
  };
  const Words words;
  const TokenTrie trie(words);
  const auto constraint = Make(trie, R"({"type":"string"})");
  constraint->Accept(1);
  std::vector<float> logits(7, 0.0f);
  constraint->Mask(logits);
  const float out = -std::numeric_limits<float>::infinity();
  EXPECT_EQ(logits, (std::vector<float>{out, 0, 0, 0, out, 0, out}));
  EXPECT_TRUE(MakeJsonConstraint(trie, Compiled(R"({"const":"春0"})"), {0}).ok());
  for (const char* schema : {R"({"const":"夏"})", R"({"type":"object"})", R"({"type":"null"})"}) {
    const auto refused = MakeJsonConstraint(trie, Compiled(schema), {0});
    EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument) << schema;
  }
  EXPECT_FALSE(MakeJsonConstraint(trie, Compiled(R"({"type":"string"})"), {}).ok());
}

TEST(JsonSchemaTest, RefusesByName) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"type":"string","format":"date"})", "schema has format"},
      {R"({"type":"object","properties":{"a":{"type":"array","items":{"multipleOf":2}}}})",
       "schema.properties.a.items has multipleOf"},
      {R"({"anyOf":[{"type":"null"}],"type":"null"})", "has type"},
      {R"({"type":"object","required":["a"]})", "requires a name"},
      {R"({"type":"integer","enum":["a"]})", "nothing satisfies"},
      {R"({"$defs":{"a":{"$ref":"#/$defs/a"}},"$ref":"#/$defs/a"})", "never be satisfied"},
      {R"({"enum":[[1]]})", "simple values"},
      {R"(3)", "object"},
  };
  for (const auto& [schema, words] : cases) {
    const auto compiled = CompileJsonSchema(ParseOrderedJson(schema));
    ASSERT_FALSE(compiled.ok()) << schema;
    EXPECT_NE(compiled.status().message().find(words), std::string::npos)
        << schema << compiled.status();
  }
}

}  // namespace
}  // namespace qianyi
