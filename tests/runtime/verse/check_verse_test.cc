#include "runtime/verse/check_verse.h"

#include <gtest/gtest.h>

#include <string>

namespace qianyi {
namespace {

constexpr PoemRules kRhymeAndTones{.rhyme = true, .tones = true};
constexpr PoemRules kRhyme{.rhyme = true};
constexpr PoemRules kNone{};
constexpr char kStork[] = "白日依山尽，黄河入海流。欲穷千里目，更上一层楼。";

absl::Status Check(std::string_view text, std::string_view form, PoemRules rules) {
  const auto found = FindVerseForm(form);
  EXPECT_TRUE(found.ok()) << found.status();
  return CheckPoem(text, *found, rules);
}

TEST(VerseCheckTest, FamousPoemsPass) {
  const struct {
    const char* form;
    const char* text;
  } cases[] = {
      {"五绝", kStork},
      {"五律",
       "国破山河在，城春草木深。感时花溅泪，恨别鸟惊心。烽火连三月，家书抵万金。白头搔更短，"
       "浑欲不胜簪。"},
      {"五律",
       "空山新雨后，天气晚来秋。明月松间照，清泉石上流。竹喧归浣女，莲动下渔舟。随意春芳歇，"
       "王孙自可留。"},
      {"七绝", "朝辞白帝彩云间，千里江陵一日还。两岸猿声啼不住，轻舟已过万重山。"},
      {"七绝", "两个黄鹂鸣翠柳，一行白鹭上青天。窗含西岭千秋雪，门泊东吴万里船。"},
      {"七律",
       "风急天高猿啸哀，渚清沙白鸟飞回。无边落木萧萧下，不尽长江滚滚来。万里悲秋常作客，"
       "百年多病独登台。艰难苦恨繁霜鬓，潦倒新停浊酒杯。"},
  };
  for (const auto& poem : cases) {
    for (const PoemRules rules : {kRhymeAndTones, kRhyme, kNone, PoemRules{.tones = true}}) {
      EXPECT_EQ(Check(poem.text, poem.form, rules), absl::OkStatus()) << poem.text;
    }
  }
}

TEST(VerseCheckTest, FamousTunesPass) {
  EXPECT_EQ(Check("一曲新词酒一杯。去年天气旧亭台。夕阳西下几时回。无可奈何花落去，似曾相识燕归来。"
                  "小园香径独徘徊。",
                  "浣溪沙", kRhyme),
            absl::OkStatus());
  EXPECT_EQ(Check("无言独上西楼。月如钩。寂寞梧桐深院、锁清秋。剪不断。理还乱。是离愁。"
                  "别是一般滋味、在心头。",
                  "相见欢", kRhyme),
            absl::OkStatus());
  EXPECT_EQ(Check("昨夜雨疏风骤。浓睡不消残酒。试问卷帘人，却道海棠依旧。知否。知否。"
                  "应是绿肥红瘦。",
                  "如梦令", kNone),
            absl::OkStatus());
}

TEST(VerseCheckTest, NamesTheFirstViolation) {
  const struct {
    const char* form;
    const char* text;
    PoemRules rules;
    const char* error;
  } cases[] = {
      {"五绝", "", kNone, "the text has 0 clauses; 五绝 has 4"},
      {"五绝", "白日依山尽，黄河入海流。", kNone, "the text has 2 clauses"},
      {"五绝", "白日依山尽，黄河入海流。欲穷千里目", kNone, "clause 3 is not closed"},
      {"五绝", "白日依山尽，黄河入大海流。", kNone, "clause 2 has 6 characters; 五绝 wants 5"},
      {"五绝", "白日依山，", kNone, "clause 1 has 4 characters"},
      {"五绝", "白日依山尽。", kNone, "clause 1 ends with 。; 五绝 wants ，"},
      {"五绝", "白日a依山尽，", kNone, "clause 1 has \"a\""},
      {"五绝", "白日\xFF", kNone, "not a Chinese character"},
      {"五绝", "白日依山尽，黄河入海流。欲穷千里目，更上一层楼。看", kNone, "\"看\" after"},
      // 静夜思: 光 霜 乡 rhyme, but its tones are free.
      {"五绝", "床前看月光，疑是地上霜。举头望山月，低头思故乡。", kRhymeAndTones, "clause"},
      {"七绝", "渭城朝雨浥轻尘，客舍青青柳色新。劝君更尽一杯酒，西出阳关无故人。", kRhymeAndTones,
       "clause 3 has 君 in place 2, which is not oblique"},
      {"五绝", "白日依山尽，黄河入海流。欲穷千里目，更上一层山。", kRhymeAndTones,
       "clause 4 ends with 山, which does not rhyme with 流"},
      {"五绝", "白日依山尽，黄河入海流。欲穷千里目，更上一层流。", kRhyme,
       "clauses 2 and 4 rhyme with the same character 流"},
      {"五绝", "白日依山尽，黄河入海上。欲穷千里目，更上一层楼。", kRhyme, "has no level rhyme"},
      {"五绝", "白日依山尽，黄河日海流。欲穷千里目，白上一层楼。", kRhymeAndTones, ""},
      {"五绝", "白日依山尽，白河入海流。欲穷千里目，更上一层楼。", kRhymeAndTones,
       "clause 2 has a level tone alone (孤平): 河 between 白 and 入"},
      {"五绝", "白日依山尽，黄河入海流。欲穷一里目，更上一层楼。", kRhymeAndTones,
       "clause 3 has 一 in place 3, which is not level"},  // 三仄尾
      {"五绝", "白日依山尽，黄河入海流。欲穷千里目，更上天层楼。", kRhymeAndTones,
       "clause 4 has 天 in place 3, which is not oblique"},  // 三平尾
      {"五绝", "白日依山尽，黄河入海流。更上千里目，欲穷一层楼。", kRhymeAndTones,
       "clause 3 has 上 in place 2, which is not level"},  // 失粘
      {"浣溪沙", kStork, {.tones = true}, "浣溪沙 is a tune"},
      {"满江红", kStork, kRhyme, "满江红 has no level rhymes"},
  };
  for (const auto& want : cases) {
    const absl::Status status = Check(want.text, want.form, want.rules);
    if (*want.error == '\0') {
      EXPECT_EQ(status, absl::OkStatus()) << want.text;
      continue;
    }
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << want.text;
    EXPECT_NE(status.message().find(want.error), std::string::npos) << status << " " << want.text;
  }
}

TEST(VerseCheckTest, HalfWidthMarksAndUnknownTones) {
  EXPECT_EQ(Check("白日依山尽,黄河入海流。欲穷千里目,更上一层楼。", "五绝", kRhymeAndTones),
            absl::OkStatus());
  EXPECT_EQ(Check("白𠀀依山尽，黄河入海流。欲穷千里目，更上一层楼。", "五绝", kRhymeAndTones),
            absl::OkStatus());
}

TEST(VerseCheckTest, Couplets) {
  const struct {
    const char* upper;
    const char* lower;
    bool tones;
    const char* error;  // empty = passes
  } cases[] = {
      {"明月松间照", "清泉石上流", true, ""},
      {"明月松间照，", "清泉石上流。", true, ""},
      {"无边落木萧萧下，", "不尽长江滚滚来。", true, ""},
      {"春，风", "秋,雨", true, ""},
      {"", "清泉", false, "the upper line is empty"},
      {"明月松间照", "清泉石上", false, "ends at 4 places of 5"},
      {"明月松间照", "清泉石上流水", false, "has 6 places; the upper has 5"},
      {"明月松间照", "清泉石月流", false, "place 4: 月 is in the upper line"},
      {"明月，松间照", "清泉石，上流", false, "place 3"},
      {"明月松间照", "清泉石a流", false, "place 4: a does not match"},
      {"明月松间照", "清雨石上流", true, "place 2: 月 and 雨 are both oblique"},
      {"明月松间照", "清泉石上水", true, "place 5: 照 and 水 are both oblique"},
      {"明月松间照", "清雨石上水", false, ""},
  };
  for (const auto& want : cases) {
    const absl::Status status = CheckCouplet(want.upper, want.lower, {.tones = want.tones});
    if (*want.error == '\0') {
      EXPECT_EQ(status, absl::OkStatus()) << want.upper << want.lower;
      continue;
    }
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(status.message().find(want.error), std::string::npos) << status;
  }
}

}  // namespace
}  // namespace qianyi
