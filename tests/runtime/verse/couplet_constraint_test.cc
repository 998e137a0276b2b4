#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "runtime/verse/check_verse.h"
#include "runtime/verse/verse_constraint.h"
#include "tests/runtime/verse/fake_tokenizer.h"
#include "tests/runtime/verse/walk.h"

namespace qianyi {
namespace {

using ::qianyi::testing::FakeTokenizer;
using ::qianyi::testing::kTastes;
using ::qianyi::testing::TableCharacters;
using ::qianyi::testing::Taste;
using ::qianyi::testing::Vocabulary;
using ::qianyi::testing::Walk;
using ::qianyi::testing::WithPhrases;

TEST(VerseCoupletTest, KeepsTheUpperLinesForm) {
  std::string longest;
  for (int i = 0; i < 4; ++i) longest += "无边落木萧萧下去";
  const std::string uppers[] = {
      "春",         "明月松间照", "明月松间照，", "无边落木，萧", "天、地、人，和。",
      "𠀀𠀀看𠀀看", "海阔,天空",  longest};
  for (const int phrases : {0, 800}) {
    const FakeTokenizer tokenizer(WithPhrases(Vocabulary(TableCharacters(20)), phrases, 6));
    const VerseTokens tokens(tokenizer);
    for (const std::string& upper : uppers) {
      for (const CoupletRules rules : {CoupletRules{}, CoupletRules{.tones = true}}) {
        Walk walk(tokens, {0}, 8);
        for (int i = 0; i < 500; ++i) {
          auto constraint = MakeCoupletConstraint(tokens, upper, rules, {0});
          ASSERT_TRUE(constraint.ok()) << constraint.status();
          const auto ids = walk.Run(**constraint, i < 5 ? kTastes[i] : kTastes[i % 2 * 4]);
          const std::string lower = *tokenizer.Decode(ids);
          ASSERT_EQ(CheckCouplet(upper, lower, rules), absl::OkStatus()) << upper << " " << lower;
          ASSERT_FALSE(HasFailure());
        }
      }
    }
  }
}

TEST(VerseCoupletTest, RefusesUpperLines) {
  const VerseTokens tokens{FakeTokenizer(Vocabulary({"春", "秋", "流", "白"}))};
  std::string long_line, very_long_line;
  for (int i = 0; i < 33; ++i) long_line += "山";
  for (int i = 0; i < 1 << 18; ++i) very_long_line += "山";
  const struct {
    std::string upper;
    bool tones;
    absl::StatusCode code;
    const char* error;
  } cases[] = {
      {"", false, absl::StatusCode::kInvalidArgument, "empty"},
      {"。", false, absl::StatusCode::kInvalidArgument, "empty"},
      {"春a风1a", false, absl::StatusCode::kInvalidArgument, "has \"a1\""},
      {"春 风", false, absl::StatusCode::kInvalidArgument, "has \" \""},
      {"春\xFF", false, absl::StatusCode::kInvalidArgument, "\xEF\xBF\xBD"},
      {"春，，风", false, absl::StatusCode::kInvalidArgument, "does not follow"},
      {"，春", false, absl::StatusCode::kInvalidArgument, "does not follow"},
      {"春。。", false, absl::StatusCode::kInvalidArgument, "closed twice"},
      {long_line, false, absl::StatusCode::kInvalidArgument, "33 characters; the limit is 32"},
      {very_long_line, false, absl::StatusCode::kInvalidArgument, "786432 bytes"},
      {"山！山", false, absl::StatusCode::kFailedPrecondition, "no token for ！"},
      {"春秋流白", false, absl::StatusCode::kFailedPrecondition, "no character besides"},
      {"山白", false, absl::StatusCode::kOk, ""},
      {"山白", true, absl::StatusCode::kOk, ""},
      {"白山", true, absl::StatusCode::kFailedPrecondition, "no oblique character besides"},
      {"春秋流上", true, absl::StatusCode::kFailedPrecondition, "no level character besides"},
  };
  for (const auto& want : cases) {
    const auto made = MakeCoupletConstraint(tokens, want.upper, {.tones = want.tones}, {0});
    EXPECT_EQ(made.status().code(), want.code) << made.status() << want.upper;
    EXPECT_NE(made.status().message().find(want.error), std::string::npos) << made.status();
  }
  EXPECT_FALSE(MakeCoupletConstraint(tokens, "山", {}, {}).ok());
  EXPECT_FALSE(MakeCoupletConstraint(tokens, "山", {}, {4}).ok());
}

}  // namespace
}  // namespace qianyi
