#include "runtime/verse/verse_tokens.h"

#include <gtest/gtest.h>

#include "tests/runtime/verse/fake_tokenizer.h"

namespace qianyi {
namespace {

using ::qianyi::testing::FakeTokenizer;

std::u32string Text(const VerseTokens& tokens, int32_t token) {
  std::u32string text;
  for (const int32_t character : tokens.Text(token)) text += tokens.characters()[character].code;
  return text;
}

TEST(VerseTokensTest, OnlyVerseQualifies) {
  const VerseTokens tokens(
      FakeTokenizer({"", "春", "春风", " 春", "\xE6\x98\xA5\xE6", "春a", "。", "春，风", ",",
                     "[MASK]", "\xE6", "12", "！", "あ", "春"}));
  const std::u32string want[] = {U"", U"春", U"春风", U"", U"",   U"", U"。", U"春，风",
                                 U"", U"",   U"",     U"", U"！", U"", U"春"};
  for (int32_t id = 0; id < tokens.vocab_size(); ++id) {
    if (id == 8) continue;
    EXPECT_EQ(Text(tokens, id), want[id]) << id;
  }
  EXPECT_EQ(Text(tokens, 8), U",");  // no token is ， alone
  EXPECT_TRUE(tokens.HasMark(U'，') && tokens.HasMark(U'。') && tokens.HasMark(U'！'));
  EXPECT_FALSE(tokens.HasMark(U'、'));
  EXPECT_EQ(std::vector<int32_t>(tokens.several().begin(), tokens.several().end()),
            (std::vector<int32_t>{2, 7}));
  const int32_t spring = tokens.FindCharacter(U'春');
  const auto alone = tokens.Alone(spring);
  EXPECT_EQ(std::vector<int32_t>(alone.begin(), alone.end()), (std::vector<int32_t>{1, 14}));
  EXPECT_TRUE(tokens.Alone(tokens.FindCharacter(U'风')).empty());
  EXPECT_EQ(tokens.FindCharacter(U'秋'), -1);
  EXPECT_TRUE(tokens.Text(-1).empty());
  EXPECT_TRUE(tokens.Text(tokens.vocab_size()).empty());
}

TEST(VerseTokensTest, FullWidthMarksComeFirst) {
  const VerseTokens tokens(FakeTokenizer({"，", ",", "春,", "春", "?"}));
  EXPECT_FALSE(tokens.Text(0).empty());
  EXPECT_TRUE(tokens.Text(1).empty());
  EXPECT_TRUE(tokens.Text(2).empty());
  EXPECT_FALSE(tokens.Text(4).empty());
  EXPECT_TRUE(tokens.HasMark(U'？'));
}

TEST(VerseTokensTest, CountsDifferentCharacters) {
  const VerseTokens tokens(FakeTokenizer({"流", "楼", "流", "白", "看", "秋风", "𠀀", "。"}));
  const VerseTokens::Supply& supply = tokens.supply();
  EXPECT_EQ(supply.characters, 5);
  EXPECT_EQ(supply.level, 3);
  EXPECT_EQ(supply.oblique, 2);
  const uint32_t group = CharacterTable::Get().Find(U'流').groups;
  EXPECT_EQ(supply.rhymes[std::countr_zero(group)], 2);
}

TEST(VerseTokensTest, NothingQualifies) {
  const VerseTokens tokens(FakeTokenizer({"", "a"}));
  EXPECT_EQ(tokens.supply().characters, 0);
  EXPECT_EQ(tokens.vocab_size(), 2);
  EXPECT_EQ(VerseTokens(FakeTokenizer({})).vocab_size(), 0);
}

}  // namespace
}  // namespace qianyi
