#include "runtime/tokenizers/cogview_tokens.h"

#include <gtest/gtest.h>

#include <numeric>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "runtime/tokenizers/sentencepiece_tokenizer.h"
#include "tests/runtime/tokenizers/sentencepiece_file.h"

namespace qianyi {
namespace {

using Ids = std::vector<int32_t>;

// Pieces: 0 unknown, 1 and 2 controls, 3 "▁", 4 "a", 5 "b"; 10 image codes before them.
nlohmann::json Config() {
  return {{"num_image_tokens", 10},
          {"num_text_tokens", 6},
          {"command_tokens",
           {{"[PAD]", 16},
            {"[BOI1]", 17},
            {"[EOI1]", 18},
            {"[MASK]", 19},
            {"[BASE]", 20},
            {"[TINY]", 21}}}};
}

std::shared_ptr<const TextTokenizer> Text() {
  SentencePieceFile file;
  file.Add("\xE2\x96\x81", -1);
  file.Add("a", -2);
  file.Add("b", -3);
  return *SentencePieceTokenizer::Parse(file.Bytes(), "model");
}

const CogViewTokens& Tokens() {
  static const CogViewTokens tokens = *CogViewTokens::Create(Text(), Config());
  return tokens;
}

Ids Query(const std::string& query) {
  const auto ids = Tokens().EncodeQuery(query);
  EXPECT_TRUE(ids.ok()) << ids.status();
  return ids.value_or(Ids{});
}

TEST(CogViewTokens, TextIsShiftedAndKnowsNoCommands) {
  EXPECT_EQ(*Tokens().EncodeText("ab"), (Ids{13, 14, 15}));
  EXPECT_EQ(*Tokens().EncodeText("[PAD]"), (Ids{13, 10}));  // unknown letters
  EXPECT_FALSE(Tokens().EncodeText("\xFF").ok());
}

TEST(CogViewTokens, QueriesAreWordsBetweenSingleSpaces) {
  EXPECT_EQ(Query("[PAD] a b [BASE]"), (Ids{16, 13, 14, 13, 15, 20}));
  EXPECT_EQ(Query("[PAD]a"), (Ids{13, 10, 14}));
  EXPECT_EQ(Query("[PAD]  [BASE]"), (Ids{16, 20}));
  EXPECT_EQ(Query(""), Ids{});
  EXPECT_EQ(Query(" a "), (Ids{13, 14}));
  EXPECT_EQ(Query("a [PAD] "), (Ids{13, 14, 16}));
  EXPECT_EQ(Query("[MASK] [MASK]*3 [PAD]"), (Ids{-1, -1, -1, -1, 16}));
}

TEST(CogViewTokens, WrongCountsAreErrors) {
  for (const char* query : {"[MASK]*0", "[MASK]*x", "[MASK]*", "[MASK]*-1", "[MASK]*1x",
                            "[MASK]*99999999999", "[MASK]*65536 [MASK]*65536"}) {
    EXPECT_EQ(Tokens().EncodeQuery(query).status().code(), absl::StatusCode::kInvalidArgument)
        << query;
  }
}

TEST(CogViewTokens, PicturesAreReadOnlyWhereTheCallerAllows) {
  const auto read = [](const std::string& path) -> absl::StatusOr<Ids> {
    if (path != "p.jpg") return absl::NotFoundError(path);
    return Ids{1, 2, 3, 4};
  };
  EXPECT_EQ(*Tokens().EncodeQuery("[Image]p.jpg [EOI1]", read), (Ids{1, 2, 3, 4, 18}));
  EXPECT_EQ(*Tokens().EncodeQuery("[Image3]p.jpg", read), (Ids{1, 2, 3, -1}));
  EXPECT_EQ(Tokens().EncodeQuery("[Image]q.jpg", read).status().code(),
            absl::StatusCode::kNotFound);
  for (const char* query : {"[Image]", "[Image", "[Imagex]p.jpg", "[Image-1]p.jpg"}) {
    EXPECT_EQ(Tokens().EncodeQuery(query, read).status().code(), absl::StatusCode::kInvalidArgument)
        << query;
  }
  EXPECT_EQ(Tokens().EncodeQuery("[Image]p.jpg").status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(CogViewTokens, WrapsCodes) {
  Ids codes(64);
  std::iota(codes.begin(), codes.end(), 0);
  const auto ids = Tokens().WrapCodes(codes, 1);
  ASSERT_TRUE(ids.ok());
  ASSERT_EQ(ids->size(), 67u);
  EXPECT_EQ(ids->front(), 21);
  EXPECT_EQ((*ids)[1], 17);
  EXPECT_EQ(ids->back(), 18);
  EXPECT_FALSE(Tokens().WrapCodes(codes, 2).ok());
  EXPECT_FALSE(Tokens().WrapCodes(Ids(63), 1).ok());
}

TEST(CogViewTokens, DecodesTextAndImagesApart) {
  const auto decoded = Tokens().Decode(Ids{16, 13, 14, 20, 17, 1, 2, 20, 3, 18, 4, 15, 18, 18, 5});
  ASSERT_TRUE(decoded.ok());
  EXPECT_EQ(decoded->text, (std::vector<std::string>{"[PAD]", "a", "[BASE]", "[BOI1]", "[BASE]",
                                                     "[EOI1]", "b", "[EOI1]", "[EOI1]"}));
  EXPECT_EQ(decoded->images, (std::vector<Ids>{{1, 2, 3}, {4}, {5}}));
  EXPECT_FALSE(Tokens().Decode(Ids{22}).ok());
  EXPECT_FALSE(Tokens().Decode(Ids{-1}).ok());
}

TEST(CogViewTokens, RefusesWrongTables) {
  for (const char* field : {"num_image_tokens", "num_text_tokens", "command_tokens"}) {
    nlohmann::json config = Config();
    config.erase(field);
    const auto tokens = CogViewTokens::Create(Text(), config);
    ASSERT_EQ(tokens.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(std::string(tokens.status().message()).find(field), std::string::npos);
  }
  nlohmann::json config = Config();
  config["command_tokens"]["[PAD]"] = 3;  // an image code
  EXPECT_FALSE(CogViewTokens::Create(Text(), config).ok());
  config = Config();
  config["num_text_tokens"] = 7;
  EXPECT_FALSE(CogViewTokens::Create(Text(), config).ok());
}

}  // namespace
}  // namespace qianyi
