#include <gtest/gtest.h>

#include <set>

#include "runtime/verse/character_table.h"
#include "runtime/verse/verse_form.h"
#include "runtime/verse/verse_text.h"

namespace qianyi {
namespace {

std::string Error(const absl::Status& status) { return std::string(status.message()); }

TEST(VerseTableTest, KnowsCharacters) {
  const CharacterTable& table = CharacterTable::Get();
  EXPECT_EQ(table.size(), 8847);
  EXPECT_EQ(table.groups().size(), 28u);
  EXPECT_TRUE(table.Find(U'白').oblique);  // 入声
  EXPECT_FALSE(table.Find(U'白').level);
  EXPECT_TRUE(table.Find(U'流').level);
  EXPECT_EQ(table.Find(U'流').groups, table.Find(U'楼').groups);
  EXPECT_NE(table.Find(U'流').groups, table.Find(U'山').groups);
  EXPECT_TRUE(table.Find(U'看').level && table.Find(U'看').oblique);
  EXPECT_FALSE(table.Find(U'a').known());
}

TEST(VerseTableTest, ParsesSeveralGroups) {
  const auto table = CharacterTable::Parse("# note\n春\t平\t真\n\n为\t○\t支真\n不\t仄\t-\n");
  ASSERT_TRUE(table.ok()) << table.status();
  EXPECT_EQ(table->size(), 3);
  EXPECT_EQ(table->Find(U'春'), (Sound{true, false, 1}));
  EXPECT_EQ(table->Find(U'为'), (Sound{true, true, 3}));
  EXPECT_EQ(table->Find(U'不'), (Sound{false, true, 0}));
}

TEST(VerseTableTest, RefusesDamage) {
  std::string many;
  for (char32_t c = 0x4E00; c < 0x4E00 + 33; ++c) many += Utf8(c) + "\t平\t" + Utf8(c) + "\n";
  const std::pair<std::string, const char*> cases[] = {
      {"", "no characters"},
      {"春\t平\n", "line 1: 2 fields"},
      {"春\t平\t真\n春天\t平\t先\n", "line 2: \"春天\" is not one"},
      {"x\t平\t真\n", "not one Chinese character"},
      {"春\t去\t真\n", "tone \"去\""},
      {"春\t仄\t真\n", "of level tones"},
      {"春\t平\ta\n", "rhyme group \"a\""},
      {"春\t平\t\n", "empty rhyme group"},
      {"春\t平\t真\n春\t平\t真\n", "line 2: 春 is there twice"},
      {many, "line 33: more than 32"},
  };
  for (const auto& [text, error] : cases) {
    const auto table = CharacterTable::Parse(text);
    ASSERT_EQ(table.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_NE(Error(table.status()).find(error), std::string::npos) << table.status();
  }
}

TEST(VerseFormTest, RegulatedVerseHasItsNames) {
  const struct {
    const char* name;
    const char* same;
    size_t lines;
    int length;
  } cases[] = {{"五绝", "五绝", 4, 5},     {"七绝", "七绝", 4, 7},     {"五律", "五律", 8, 5},
               {"七律", "七律", 8, 7},     {"五言绝句", "五绝", 4, 5}, {"七言绝句", "七绝", 4, 7},
               {"五言律诗", "五律", 8, 5}, {"七言律诗", "七律", 8, 7}, {"五絕", "五绝", 4, 5},
               {"七絕", "七绝", 4, 7},     {"五言絕句", "五绝", 4, 5}, {"七言絕句", "七绝", 4, 7},
               {"五言律詩", "五律", 8, 5}, {"七言律詩", "七律", 8, 7}};
  for (const auto& want : cases) {
    const auto form = FindVerseForm(want.name);
    ASSERT_TRUE(form.ok()) << form.status();
    EXPECT_EQ(form->name, want.same);
    EXPECT_TRUE(form->regulated && form->rhymes());
    ASSERT_EQ(form->clauses.size(), want.lines);
    EXPECT_EQ(form->characters(), static_cast<int>(want.lines) * want.length);
    for (size_t i = 0; i < want.lines; ++i) {
      const bool even = i % 2 == 1;
      const VerseClause clause{want.length, even ? U'。' : U'，', even ? 1 : 0};
      EXPECT_EQ(form->clauses[i], clause);
    }
  }
}

TEST(VerseFormTest, Tunes) {
  const auto form = FindVerseForm("浣溪沙");
  ASSERT_TRUE(form.ok()) << form.status();
  EXPECT_FALSE(form->regulated);
  const std::vector<VerseClause> want = {{7, U'。', 1}, {7, U'。', 1}, {7, U'。', 1},
                                         {7, U'，', 0}, {7, U'。', 1}, {7, U'。', 1}};
  EXPECT_EQ(form->clauses, want);
  EXPECT_TRUE(FindVerseForm("菩萨蛮")->rhymes());
  EXPECT_EQ(FindVerseForm("菩萨蛮")->clauses.back().rhyme, 2);
  EXPECT_FALSE(FindVerseForm("满江红")->rhymes());  // oblique
}

TEST(VerseFormTest, ListsEveryNameOnce) {
  const std::vector<std::string>& names = VerseFormNames();
  EXPECT_GT(names.size(), 100u);
  EXPECT_EQ(names[0], "五绝");
  EXPECT_EQ(names[4], "浣溪沙");
  EXPECT_EQ(std::set<std::string>(names.begin(), names.end()).size(), names.size());
  for (const std::string& name : names) {
    const auto form = FindVerseForm(name);
    ASSERT_TRUE(form.ok()) << form.status();
    EXPECT_EQ(form->name, name);
  }
}

TEST(VerseFormTest, NamesWhatIsUnknown) {
  const auto form = FindVerseForm("十四行");
  ASSERT_EQ(form.status().code(), absl::StatusCode::kInvalidArgument);
  for (const char* part : {"\"十四行\"", "五绝", "浣溪沙"}) {
    EXPECT_NE(Error(form.status()).find(part), std::string::npos) << form.status();
  }
  EXPECT_LT(Error(FindVerseForm(std::string(1 << 20, 'x')).status()).size(), 400u);
  EXPECT_FALSE(FindVerseForm("").ok());
  EXPECT_FALSE(FindVerseForm("\xFF\xE6").ok());
}

TEST(VerseFormTest, ParsesTunes) {
  const auto tunes = ParseTunes("# note\n甲\t10，2、3。\t9\t--a\n\n乙\t1。1。1。\t9\ta-b");
  ASSERT_TRUE(tunes.ok()) << tunes.status();
  ASSERT_EQ(tunes->size(), 2u);
  EXPECT_EQ((*tunes)[0].name, "甲");
  const std::vector<VerseClause> want = {{10, U'，', 0}, {2, U'、', 0}, {3, U'。', 1}};
  EXPECT_EQ((*tunes)[0].clauses, want);
  EXPECT_EQ((*tunes)[1].clauses[2].rhyme, 2);
  const std::pair<const char*, const char*> cases[] = {
      {"甲\t7。\t9", "3 fields"},
      {"a\t7。\t9\t-", "\"a\" is not a name"},
      {"\t7。\t9\t-", "is not a name"},
      {"甲\t\t9\t", "pattern"},
      {"甲\t7\t9\t-", "pattern \"7\""},
      {"甲\t。\t9\t-", "pattern"},
      {"甲\t0。\t9\t-", "pattern"},
      {"甲\t33。\t9\t-", "1..32"},
      {"甲\t99999999999999999999。\t9\t-", "pattern"},
      {"甲\t7！\t9\t-", "pattern"},
      {"甲\t7。\t9\t--", "rhymes \"--\""},
      {"甲\t7。\t9\tA", "rhymes \"A\""},
      {"甲\t7。7。7。\t9\taba", "go back"},
      {"甲\t7。\t9\t-\n甲\t7。\t9\t-", "line 2: 甲 is there twice"},
  };
  for (const auto& [text, error] : cases) {
    const auto parsed = ParseTunes(text);
    ASSERT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_NE(Error(parsed.status()).find(error), std::string::npos) << parsed.status();
  }
}

TEST(VerseTextTest, ClausesHaveNoPunctuation) {
  using Lines = std::vector<std::string>;
  EXPECT_EQ(Clauses("白日依山尽，黄河入海流。"), (Lines{"白日依山尽", "黄河入海流"}));
  EXPECT_EQ(Clauses("春,夏;;秋!\n冬"), (Lines{"春", "夏", "秋", "冬"}));
  EXPECT_EQ(Clauses(""), Lines());
  EXPECT_EQ(Clauses("，。"), Lines());
  EXPECT_EQ(Clauses("a\xFF。"), (Lines{"a\xEF\xBF\xBD"}));
}

TEST(VerseTextTest, CharactersAndMarks) {
  EXPECT_TRUE(IsHan(U'春') && IsHan(U'〇') && IsHan(U'\U00020000') && IsHan(U'\u3400'));
  EXPECT_FALSE(IsHan(U'a') || IsHan(U'，') || IsHan(U'あ') || IsHan(U'々') || IsHan(U'\uFFFD'));
  EXPECT_EQ(VerseMark(U','), U'，');
  EXPECT_EQ(VerseMark(U'？'), U'？');
  EXPECT_EQ(VerseMark(U'.'), 0u);
  EXPECT_EQ(VerseMark(0), 0u);
  EXPECT_EQ(Characters("春\xE6\x98。"), U"春\uFFFD。");
  EXPECT_EQ(Utf8(U"春\U00020000"), "春\U00020000");
}

}  // namespace
}  // namespace qianyi
