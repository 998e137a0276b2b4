#include "runtime/pictures/picture_query.h"

#include <gtest/gtest.h>

#include <limits>

#include "runtime/generation.h"

namespace qianyi {
namespace {

// 8 codes, 5 pieces of text, then the command words from 13 on: [BOI1] is 14, [EOI1] 17, [ROI1]
// 20, [ROI2] 21.
PictureConfig Small() {
  return *PictureConfig::Read({{"num_image_tokens", 8},
                               {"num_text_tokens", 5},
                               {"max_position_embeddings", 30},
                               {"grid", 2}});
}

TEST(PictureConfigTest, DefaultsAreTheReleasedShape) {
  const PictureConfig config = *PictureConfig::Read(nlohmann::json::object());
  EXPECT_EQ(config.vocab_size, 58240);
  EXPECT_EQ(config.Command("[BOI1]"), 58193);
  EXPECT_EQ(config.Command("[ROI1]"), 58199);
  EXPECT_EQ(config.Command("[BASE]"), 58208);
  EXPECT_EQ(config.Command("[POS8]"), 58218);
  EXPECT_EQ(config.size_word, "[BASE]");
  EXPECT_EQ(PictureConfig::Read({{"grid", 8}})->size_word, "[TINY]");
}

TEST(PictureConfigTest, ErrorsNameTheField) {
  const std::pair<nlohmann::json, const char*> bad[] = {
      {{{"grid", 0}}, "grid"},
      {{{"vocab_size", 100}}, "vocab_size"},
      {{{"styles", {{"a", 3}}}}, "styles"},
      {{{"roles", {"sing"}}}, "roles"},
      {{{"sampling", 7}}, "sampling"},
      {{{"command_tokens", {{"[ROI1]", 5}}}}, "[ROI1]"},
      {{{"size_token", "[HUGE]"}}, "size_token"},
  };
  for (const auto& [config, field] : bad) {
    const auto read = PictureConfig::Read(config);
    ASSERT_FALSE(read.ok()) << field;
    EXPECT_NE(std::string(read.status().message()).find(field), std::string::npos) << read.status();
  }
}

TEST(PictureQueryTest, PositionsStartAgainBehindRoi2) {
  const std::vector<int32_t> query = {20, 9, 21, 14, -1, -1};
  EXPECT_EQ(QueryPositions(query, 21), (std::vector<int32_t>{0, 1, 2, 1, 2, 3}));
}

TEST(PictureQueryTest, OnlyGivenSwitchesChangeWhatMayBeDrawn) {
  const PictureConfig config = Small();
  const std::vector<int32_t> query = {20, -1, 14, -1, 3, -1, 17, -1, 20, -1};
  const std::vector<TokenRange> ranges = QueryRanges(query, config);
  ASSERT_EQ(ranges.size(), 5u);
  EXPECT_EQ(ranges[0], (TokenRange{8, config.vocab_size}));
  EXPECT_EQ(ranges[1], (TokenRange{0, 8}));
  EXPECT_EQ(ranges[2], (TokenRange{0, 8}));
  EXPECT_EQ(ranges[3], (TokenRange{8, 13}));
  EXPECT_EQ(ranges[4], (TokenRange{8, 13}));
  const auto constraint = MakeQueryConstraint(ranges);
  std::vector<float> logits(config.vocab_size, 1.0f);
  constraint->Accept(9);
  constraint->Mask(logits);
  EXPECT_EQ(logits[7], 1.0f);
  EXPECT_EQ(logits[8], -std::numeric_limits<float>::infinity());
}

// Known codes behind a drawn one are fed with it, and the last drawn one is not fed.
TEST(PictureQueryTest, GivenTokensRideWithTheOneBeforeThem) {
  const PictureConfig config = Small();
  const std::vector<int32_t> query = {20, 9, 14, 5, -1, 6, 7, -1, 2};
  const auto prompt = LayOutQuery(query, config);
  ASSERT_TRUE(prompt.ok()) << prompt.status();
  EXPECT_EQ(prompt->tokens.size(), 4u);
  Generation generation(*prompt, 2);
  EXPECT_EQ(generation.sequence.pending(), 4);
  generation.sequence.cached = 4;
  EXPECT_FALSE(generation.Accept(1));
  EXPECT_EQ(generation.sequence.tokens, (std::vector<int32_t>{20, 9, 14, 5, 1, 6, 7}));
  EXPECT_EQ(generation.sequence.positions[0], (std::vector<int32_t>{0, 1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(generation.sequence.pending(), 3);
  EXPECT_TRUE(generation.Accept(3));
  EXPECT_LE(static_cast<int64_t>(generation.sequence.tokens.size()), generation.max_cached());
}

TEST(PictureQueryTest, RefusesWhatHasNoRoom) {
  const PictureConfig config = Small();
  std::vector<int32_t> query(31, 9);
  query.back() = -1;
  EXPECT_NE(LayOutQuery(query, config).status().message().find("position 30"), std::string::npos);
  EXPECT_FALSE(LayOutQuery(std::vector<int32_t>{-1, 3}, config).ok());
  EXPECT_FALSE(LayOutQuery(std::vector<int32_t>{3, 4}, config).ok());
  EXPECT_FALSE(LayOutQuery(std::vector<int32_t>{3, 5000, -1}, config).ok());
}

}  // namespace
}  // namespace qianyi
