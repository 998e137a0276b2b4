#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "runtime/verse/check_verse.h"
#include "runtime/verse/verse_constraint.h"
#include "runtime/verse/verse_text.h"
#include "tests/runtime/verse/fake_tokenizer.h"
#include "tests/runtime/verse/walk.h"
#include "tests/support/process.h"

namespace qianyi {
namespace {

using ::qianyi::testing::FakeTokenizer;
using ::qianyi::testing::kTastes;
using ::qianyi::testing::TableCharacters;
using ::qianyi::testing::Taste;
using ::qianyi::testing::Vocabulary;
using ::qianyi::testing::Walk;
using ::qianyi::testing::WithPhrases;

constexpr int kShare = qianyi::testing::kSanitized ? 20 : 1;  // of the walks

std::vector<PoemRules> RulesOf(const VerseForm& form) {
  std::vector<PoemRules> rules = {{}};
  if (form.rhymes()) rules.push_back({.rhyme = true});
  if (form.regulated) rules.push_back({.tones = true});
  if (form.regulated) rules.push_back({.rhyme = true, .tones = true});
  return rules;
}

// Poems of one form, by the taste in turn, against the oracle.
void WalkPoems(const FakeTokenizer& tokenizer, const VerseTokens& tokens, const std::string& name,
               int poems) {
  const VerseForm form = *FindVerseForm(name);
  for (const PoemRules rules : RulesOf(form)) {
    SCOPED_TRACE(name + (rules.rhyme ? " rhyme" : "") + (rules.tones ? " tones" : ""));
    Walk walk(tokens, {0}, 7);
    for (int i = 0; i < poems / kShare + 5; ++i) {
      auto constraint = MakePoemConstraint(tokens, form, rules, {0});
      ASSERT_TRUE(constraint.ok()) << constraint.status();
      const Taste taste = i < 5 ? kTastes[i] : kTastes[i % 3 == 0 ? 0 : 2 + i % 3];
      const std::string text = *tokenizer.Decode(walk.Run(**constraint, taste));
      ASSERT_EQ(CheckPoem(text, form, rules), absl::OkStatus()) << text;
      if (::testing::Test::HasFailure()) return;
    }
  }
}

TEST(VersePoemTest, EveryFormFromSingleCharacters) {
  const FakeTokenizer tokenizer(Vocabulary(TableCharacters(15)));
  const VerseTokens tokens(tokenizer);
  for (const std::string& name : VerseFormNames()) {
    WalkPoems(tokenizer, tokens, name, FindVerseForm(name)->regulated ? 1000 : 300);
  }
}

TEST(VersePoemTest, EveryFormFromPhrases) {
  const FakeTokenizer tokenizer(WithPhrases(Vocabulary(TableCharacters(15)), 600, 3));
  const VerseTokens tokens(tokenizer);
  for (const std::string& name : VerseFormNames()) WalkPoems(tokenizer, tokens, name, 200);
}

TEST(VersePoemTest, RegulatedVerseFromTheWholeTable) {
  const FakeTokenizer tokenizer(WithPhrases(Vocabulary(TableCharacters(1)), 3000, 4));
  const VerseTokens tokens(tokenizer);
  for (const char* name : {"五绝", "七绝", "五律", "七律"}) WalkPoems(tokenizer, tokens, name, 60);
}

// As few as can be: four rhymes for an eight-line poem, five where the first line rhymes too, one
// of a group that is too small, one of each other kind; phrases use the rhymes up.
TEST(VersePoemTest, ScarceRhymes) {
  const std::vector<std::string> rhymes = {"流", "楼", "秋", "舟", "留"};
  for (size_t count : {4u, 5u}) {
    for (const bool phrases : {false, true}) {
      std::vector<std::string> characters(rhymes.begin(), rhymes.begin() + count);
      for (const char* other : {"山", "白", "看", "𠀀"}) characters.push_back(other);
      std::vector<std::string> vocabulary = Vocabulary(characters);
      if (phrases) vocabulary = WithPhrases(vocabulary, 300, 5);
      for (const char* more : {"流。白", "上楼", "白流。", "愁", "白愁", "山，白", "白白"}) {
        if (phrases || std::string(more).size() > 3) vocabulary.push_back(more);
      }
      const FakeTokenizer tokenizer(vocabulary);
      const VerseTokens tokens(tokenizer);
      for (const char* name : {"五绝", "七绝", "五律", "七律"}) {
        WalkPoems(tokenizer, tokens, name, 1000);
      }
    }
  }
}

// What a person wrote must be possible.
TEST(VersePoemTest, LetsFamousPoemsThrough) {
  const FakeTokenizer tokenizer(Vocabulary(TableCharacters(1)));
  const VerseTokens tokens(tokenizer);
  const std::pair<const char*, const char*> poems[] = {
      {"五绝", "白日依山尽，黄河入海流。欲穷千里目，更上一层楼。"},
      {"七绝", "朝辞白帝彩云间，千里江陵一日还。两岸猿声啼不住，轻舟已过万重山。"},
      {"七律",
       "风急天高猿啸哀，渚清沙白鸟飞回。无边落木萧萧下，不尽长江滚滚来。万里悲秋常作客，"
       "百年多病独登台。艰难苦恨繁霜鬓，潦倒新停浊酒杯。"},
  };
  for (const auto& [name, text] : poems) {
    auto constraint =
        MakePoemConstraint(tokens, *FindVerseForm(name), {.rhyme = true, .tones = true}, {0});
    ASSERT_TRUE(constraint.ok()) << constraint.status();
    Walk walk(tokens, {0}, 1);
    for (const char32_t c : Characters(text)) {
      const int32_t token = tokens.Alone(tokens.FindCharacter(c))[0];
      const auto& left = walk.Left(**constraint);
      ASSERT_TRUE(std::binary_search(left.begin(), left.end(), token)) << Utf8(c) << " " << text;
      (*constraint)->Accept(token);
    }
    EXPECT_EQ(walk.Left(**constraint), std::vector<int32_t>{0});
  }
}

TEST(VersePoemTest, EndTokens) {
  std::vector<std::string> vocabulary = Vocabulary(TableCharacters(40));
  vocabulary.push_back("");
  const int32_t second = static_cast<int32_t>(vocabulary.size()) - 1;
  const FakeTokenizer tokenizer(vocabulary);
  const VerseTokens tokens(tokenizer);
  const VerseForm form = *FindVerseForm("五绝");
  auto constraint = MakePoemConstraint(tokens, form, {}, {0, second});
  ASSERT_TRUE(constraint.ok());
  Walk(tokens, {0, second}, 1).Run(**constraint, Taste::kUniform);
  // Logits of end tokens are as they were; a table larger than the vocabulary has none of them.
  std::vector<float> logits(vocabulary.size() + 7, 1.5f);
  logits[second] = -2.5f;
  (*constraint)->Mask(logits);
  for (size_t id = 0; id < logits.size(); ++id) {
    const float want = id == 0 ? 1.5f
                       : id == static_cast<size_t>(second)
                           ? -2.5f
                           : -std::numeric_limits<float>::infinity();
    EXPECT_EQ(logits[id], want) << id;
  }
  for (const std::vector<int32_t>& ends : {std::vector<int32_t>{}, std::vector<int32_t>{2},
                                           std::vector<int32_t>{0, 5}, std::vector<int32_t>{-1}}) {
    EXPECT_EQ(MakePoemConstraint(tokens, form, {}, ends).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
}

TEST(VersePoemTest, PaddedLogitsAndTokensThatWereNotLeft) {
  const FakeTokenizer tokenizer(Vocabulary(TableCharacters(40)));
  const VerseTokens tokens(tokenizer);
  const VerseForm form = *FindVerseForm("五绝");
  const int32_t padding = tokens.vocab_size() + 3;
  for (const int32_t token : {2, 0, -1, tokens.vocab_size(), padding}) {
    auto constraint = MakePoemConstraint(tokens, form, {}, {padding});
    ASSERT_TRUE(constraint.ok());
    std::vector<float> logits(tokens.vocab_size() + 8, 0.0f);
    (*constraint)->Mask(logits);
    for (size_t id = tokens.vocab_size(); id < logits.size(); ++id) EXPECT_LT(logits[id], 0);
    EXPECT_EQ(logits[4], 0);
    (*constraint)->Accept(token);  // all logits were NaN, say
    std::fill(logits.begin(), logits.end(), 0.0f);
    (*constraint)->Mask(logits);
    EXPECT_EQ(std::count(logits.begin(), logits.end(), 0.0f), 1);
    EXPECT_EQ(logits[padding], 0);
  }
}

TEST(VersePoemTest, SaysWhatIsMissing) {
  const auto error = [](std::vector<std::string> vocabulary, const char* form, PoemRules rules) {
    const VerseTokens tokens{FakeTokenizer(std::move(vocabulary))};
    return MakePoemConstraint(tokens, *FindVerseForm(form), rules, {0}).status().ToString();
  };
  const auto has = [](const std::string& text, const char* part) {
    return text.find(part) != std::string::npos;
  };
  EXPECT_PRED2(has, error({"", "春", "。"}, "五绝", {}), "FAILED_PRECONDITION");
  EXPECT_PRED2(has, error({"", "春", "。"}, "五绝", {}), "no token for ，");
  EXPECT_PRED2(has, error({"", "春", "。", ","}, "五绝", {}), "OK");
  EXPECT_PRED2(has, error(Vocabulary({}), "五绝", {}), "0 Chinese characters");
  EXPECT_PRED2(has, error(Vocabulary({"春"}), "五绝", {.tones = true}), "1 level and 0 oblique");
  EXPECT_PRED2(has, error(Vocabulary({"流", "山"}), "五绝", {.rhyme = true}), "rhymes 2 times");
  EXPECT_PRED2(has, error(Vocabulary({"流", "楼"}), "五绝", {.rhyme = true}), "OK");
  EXPECT_PRED2(has, error(Vocabulary({"流"}), "浣溪沙", {.tones = true}), "浣溪沙 is a tune");
  EXPECT_PRED2(has, error(Vocabulary({"流"}), "满江红", {.rhyme = true}), "oblique tones");
}

}  // namespace
}  // namespace qianyi
