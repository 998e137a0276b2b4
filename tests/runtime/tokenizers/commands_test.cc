#include "runtime/tokenizers/commands.h"

#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "tests/support/paths.h"

namespace qianyi {
namespace {

using Ids = std::vector<int32_t>;

// One id per byte, so that what was cut where can be read off.
class ByteTokenizer final : public TextTokenizer {
 public:
  absl::Status Encode(std::string_view text, Ids* ids) const override {
    for (const char byte : text) ids->push_back(static_cast<uint8_t>(byte));
    ids->push_back(256);  // the end of a piece
    return absl::OkStatus();
  }
  int32_t size() const override { return 257; }
  bool Contains(int32_t id) const override { return id >= 0 && id <= 256; }
  std::string_view Bytes(int32_t id, bool* run_start) const override {
    static const std::string bytes = [] {
      std::string all;
      for (int i = 0; i < 256; ++i) all += static_cast<char>(i);
      return all;
    }();
    if (id < 0 || id > 255 || (id == ' ' && *run_start)) return {};
    *run_start = false;
    return std::string_view(bytes).substr(static_cast<size_t>(id), 1);
  }
};

std::unique_ptr<Tokenizer> Make(std::vector<CommandToken> commands) {
  return *CommandTokenizer::Create(std::make_shared<ByteTokenizer>(), std::move(commands));
}

// "a|b|" for the pieces a and b, "<300>" for a command.
std::string Show(const Tokenizer& tokenizer, const std::string& text, bool specials = true) {
  const auto ids = tokenizer.Encode(text, specials);
  EXPECT_TRUE(ids.ok()) << ids.status();
  std::string shown;
  for (const int32_t id : *ids) {
    shown += id < 256    ? std::string(1, static_cast<char>(id))
             : id == 256 ? std::string("|")
                         : absl::StrCat("<", id, ">");
  }
  return shown;
}

const std::vector<CommandToken> kTwo = {{"MASK", "[MASK]", 300, true},
                                        {"sep", "[SEP]", 301, false}};

TEST(CommandTokenizer, CutsAtCommandWords) {
  const auto tokenizer = Make(kTwo);
  EXPECT_EQ(Show(*tokenizer, "a[SEP]b"), "a|<301>b|");
  EXPECT_EQ(Show(*tokenizer, "[SEP][SEP]"), "<301><301>");
  EXPECT_EQ(Show(*tokenizer, "a [MASK] b [SEP] c"), "a|<300> b |<301> c|");
  EXPECT_EQ(Show(*tokenizer, " \t\xE3\x80\x80\x1C[MASK]"), "<300>");
  EXPECT_EQ(Show(*tokenizer, "a[SEP] [MASK]"), "a|<301><300>");
  EXPECT_EQ(Show(*tokenizer, "[[MASK]]"), "[|<300>]|");
  EXPECT_EQ(Show(*tokenizer, "[MASK"), "[MASK|");
  EXPECT_EQ(Show(*tokenizer, "[SEP]  "), "<301>  |");
}

TEST(CommandTokenizer, BlankTextHasNoIds) {
  const auto tokenizer = Make(kTwo);
  EXPECT_EQ(Show(*tokenizer, ""), "");
  EXPECT_EQ(Show(*tokenizer, " \n\xC2\x85\xE3\x80\x80"), "");
}

TEST(CommandTokenizer, WithoutSpecialsAllIsText) {
  const auto tokenizer = Make(kTwo);
  EXPECT_EQ(Show(*tokenizer, "a [MASK]", false), "a [MASK]|");
  EXPECT_EQ(Show(*tokenizer, " ", false), " |");
}

// The original splits by one word after another, and skips pieces that are a word.
TEST(CommandTokenizer, TheOrderOfTheTableDecides) {
  const std::vector<CommandToken> inner_first = {{"i", "MASK", 310, false},
                                                 {"o", "[MASK]", 311, false}};
  EXPECT_EQ(Show(*Make(inner_first), "a[MASK]b"), "a[|<310>]b|");
  EXPECT_EQ(Show(*Make(inner_first), "[MASK]"), "<311>");
  const std::vector<CommandToken> outer_first = {{"o", "[MASK]", 311, false},
                                                 {"i", "MASK", 310, false}};
  EXPECT_EQ(Show(*Make(outer_first), "a[MASK]b"), "a|<311>b|");
}

TEST(CommandTokenizer, TheLaterOfTwoWithOneWordOrIdCounts) {
  const auto tokenizer = Make({{"a", "<x>", 300, false},
                               {"b", "<x>", 301, false},
                               {"c", "<y>", 302, false},
                               {"d", "<z>", 302, false}});
  EXPECT_EQ(Show(*tokenizer, "<x><y>"), "<301><302>");
  EXPECT_EQ(*tokenizer->Decode(Ids{302}), "<z>");
}

TEST(CommandTokenizer, DecodesRunsBetweenCommands) {
  const auto tokenizer = Make(kTwo);
  EXPECT_EQ(*tokenizer->Decode(Ids{' ', 'a', ' ', 'b', 301, ' ', 'c', 300}), "a b[SEP]c[MASK]");
  // A character that a command word interrupts is broken.
  EXPECT_EQ(*tokenizer->Decode(Ids{0xE4, 0xB8, 301, 0xAD}), "\xEF\xBF\xBD[SEP]\xEF\xBF\xBD");
  EXPECT_EQ(*tokenizer->Decode(Ids{0xE4, 0xB8, 0xAD}), "\xE4\xB8\xAD");
  EXPECT_EQ(*tokenizer->Decode(Ids{}), "");
  for (const int32_t id : {-1, 257, 299, 302, 1 << 30}) {
    EXPECT_EQ(tokenizer->Decode(Ids{'a', id}).status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(tokenizer->TokenBytes(id), "");
  }
  EXPECT_EQ(tokenizer->TokenBytes(' '), " ");
  EXPECT_EQ(tokenizer->TokenBytes(301), "[SEP]");
}

TEST(CommandTokenizer, KnowsItsSizeAndRoles) {
  const auto tokenizer = Make(kTwo);
  EXPECT_EQ(tokenizer->vocab_size(), 302);
  EXPECT_EQ(tokenizer->CommandId("MASK"), 300);
  EXPECT_EQ(tokenizer->CommandId("gMASK"), -1);
}

TEST(CommandTokenizer, RefusesInvalidUtf8AndSaysWhere) {
  const auto ids = Make(kTwo)->Encode("abc\xFF", true);
  ASSERT_EQ(ids.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(std::string(ids.status().message()).find("byte 3"), std::string::npos);
}

TEST(CommandTokenizer, RefusesImpossibleTables) {
  const auto create = [](std::vector<CommandToken> commands) {
    return CommandTokenizer::Create(std::make_shared<ByteTokenizer>(), std::move(commands))
        .status();
  };
  EXPECT_FALSE(create({{"a", "", 1, false}}).ok());
  EXPECT_FALSE(create({{"a", "\xFF", 1, false}}).ok());
  EXPECT_FALSE(create({{"a", "x", -1, false}}).ok());
  EXPECT_FALSE(create({{"a", "x", 1 << 30, false}}).ok());
  EXPECT_FALSE(create(std::vector<CommandToken>(2000, {"a", "x", 1, false})).ok());
}

TEST(ParseCommands, ReadsATable) {
  const auto commands = ParseCommands(nlohmann::json::parse(
      R"([{"name": "MASK", "token": "[M]", "id": 7, "lstrip": true}, {"name": "x", "token": "y", "id": 8}])"));
  ASSERT_TRUE(commands.ok());
  ASSERT_EQ(commands->size(), 2u);
  EXPECT_EQ((*commands)[0].role, "MASK");
  EXPECT_EQ((*commands)[0].word, "[M]");
  EXPECT_EQ((*commands)[0].id, 7);
  EXPECT_TRUE((*commands)[0].strips_left);
  EXPECT_FALSE((*commands)[1].strips_left);
}

TEST(ParseCommands, NamesTheWrongField) {
  for (const auto& [text, field] : std::map<std::string, std::string>{
           {R"([{"token": "y", "id": 8}])", "name"},
           {R"([{"name": "x", "token": "", "id": 8}])", "token"},
           {R"([{"name": "x", "token": "y", "id": -8}])", "id"},
           {R"([{"name": "x", "token": "y", "id": "8"}])", "id"},
           {R"([{"name": "x", "token": "y", "id": 8, "lstrip": 1}])", "lstrip"},
           {"[3]", "name"},
           {"{}", "not a list"}}) {
    const auto commands = ParseCommands(nlohmann::json::parse(text));
    ASSERT_EQ(commands.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_NE(std::string(commands.status().message()).find(field), std::string::npos) << text;
  }
}

std::vector<CommandToken> FixtureCommands(const std::string& folder, const std::string& field,
                                          const std::string& variant) {
  std::ifstream file(qianyi::testing::FixturePath(folder) + "/config.json");
  return *ParseCommands(nlohmann::json::parse(file).at(field).at(variant).at("commands"));
}

TEST(StandardCommands, AreThoseOfTheReference) {
  const auto same = [](const char* name, const std::vector<CommandToken>& want) {
    const std::vector<CommandToken>* got = StandardCommands(name);
    ASSERT_NE(got, nullptr) << name;
    ASSERT_EQ(got->size(), want.size()) << name;
    for (size_t i = 0; i < want.size(); ++i) {
      EXPECT_EQ((*got)[i].role, want[i].role);
      EXPECT_EQ((*got)[i].word, want[i].word);
      EXPECT_EQ((*got)[i].id, want[i].id);
      EXPECT_EQ((*got)[i].strips_left, want[i].strips_left);
    }
  };
  same("glm-english",
       FixtureCommands("tokenizer-gpt2", "variants", "large/10b (block, task mask, decoder mask)"));
  same("glm-chinese", FixtureCommands("tokenizer-cog", "glm_variants",
                                      "large_chinese (block, task mask, decoder mask, fixed ids)"));
  same("glm-chinese-not-fixed",
       FixtureCommands("tokenizer-cog", "glm_variants",
                       "10b_chinese script (block, task mask, decoder mask, ids not fixed)"));
  EXPECT_EQ(StandardCommands("nothing"), nullptr);
}

}  // namespace
}  // namespace qianyi
