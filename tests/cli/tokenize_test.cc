// `qianyi tokenize`, and text in and out of `generate`.
#include <algorithm>
#include <filesystem>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gtest/gtest.h"
#include "tests/cli/qianyi.h"

namespace qianyi::testing {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

std::string WithoutNewline(const std::string& text) {
  EXPECT_TRUE(absl::EndsWith(text, "\n")) << text;
  return text.substr(0, text.size() - 1);
}

// A model folder with the files of one tokenizer.
void AddChinese(const std::string& folder) {
  fs::copy(Fixture("tokenizers/cog-pretrain.model"), folder + "/cog-pretrain.model");
}
std::string ChineseFolder(const TempFolder& temp) {
  WriteText(temp / "config.json", R"({"model_type":"glm"})");
  AddChinese(temp.path());
  return temp.path();
}
std::string EnglishFolder(const TempFolder& temp) {
  fs::copy(Fixture("tokenizers/gpt2-vocab.json"), temp / "vocab.json");
  fs::copy(Fixture("tokenizers/gpt2-merges.txt"), temp / "merges.txt");
  return temp.path();
}

void ExpectRoundTrip(const std::string& folder, const std::vector<std::string>& texts) {
  for (const std::string& text : texts) {
    const std::string ids = WithoutNewline(Output({"tokenize", "--model", folder, "--", text}));
    EXPECT_EQ(ids.find_first_not_of("0123456789,"), ids.npos) << ids;
    EXPECT_EQ(WithoutNewline(Output({"tokenize", "--model", folder, "--decode", ids})), text);
  }
}

TEST(Tokenize, ChineseTextComesBack) {
  TempFolder temp;
  const std::string folder = ChineseFolder(temp);
  ExpectRoundTrip(folder, {"床前明月光,疑是地上霜。", "千亿模型", "GLM 和 CogView", "-3 度"});
}

TEST(Tokenize, EnglishTextComesBack) {
  TempFolder temp;
  ExpectRoundTrip(EnglishFolder(temp), {"Hello, world", "  two  spaces ", "tab\tand\nline",
                                        "日本 naïve 🙂", "--flag", "-1"});
}

TEST(Tokenize, GivesTheIdsOfTheOriginals) {
  TempFolder chinese, english;
  const std::tuple<const char*, const char*, std::string> kinds[] = {
      {"tokenizer-cog", "glm_ids", ChineseFolder(chinese)},
      {"tokenizer-gpt2", "ids", EnglishFolder(english)}};
  for (const auto& [fixture, field, folder] : kinds) {
    const json cases = json::parse(ReadText(Fixture(fixture) + "/cases.json"));
    int compared = 0;
    for (size_t i = 0; i < cases["encode"].size() && compared < 8; i += 19) {
      const json& entry = cases["encode"][i];
      const std::string text = entry["text"];
      if (text.empty() || text.find('\0') != text.npos) continue;  // no argument can be so
      const std::vector<int> ids = entry[field];
      EXPECT_EQ(Output({"tokenize", "--model", folder, "--", text}), absl::StrJoin(ids, ",") + "\n")
          << text;
      ++compared;
    }
    EXPECT_EQ(compared, 8) << fixture;
  }
}

TEST(Tokenize, CommandWordsActUnlessTheTextIsPlain) {
  TempFolder temp;
  const std::string folder = ChineseFolder(temp);
  EXPECT_TRUE(absl::EndsWith(Output({"tokenize", "--model", folder, "你好[MASK]"}), ",50003\n"));
  EXPECT_FALSE(
      absl::StrContains(Output({"tokenize", "--model", folder, "--plain", "你好[MASK]"}), "50003"));
}

TEST(Tokenize, RefusesWhatIsNoTextAndNoId) {
  TempFolder temp;
  const std::string folder = ChineseFolder(temp);
  for (const char* text :
       {"\xff", "ok \xe5\xba", "\xed\xa0\x80", "\xc0\xaf", "a\xf5\x80\x80\x80"}) {
    EXPECT_TRUE(Fails(Qianyi({"tokenize", "--model", folder, "--", text}), 1, {"UTF-8"}));
  }
  EXPECT_TRUE(Fails(Qianyi({"tokenize", "--model", folder, "--", "ok \xe5\xba"}), 1, {"byte 3"}));
  for (const char* ids : {"", "1,,2", "x", "1;2", "-1", "1.5", "99999999999"}) {
    EXPECT_TRUE(Fails(Qianyi({"tokenize", "--model", folder, std::string("--decode=") + ids}),
                      *ids == '\0' ? 2 : 1, {"--decode"}))
        << ids;
  }
  EXPECT_TRUE(Fails(Qianyi({"tokenize", "--model", folder, "--decode", "60000"}), 1, {"60000"}));
}

TEST(Tokenize, RefusesFoldersWithoutOrWithABrokenTokenizer) {
  TempFolder empty, broken;
  EXPECT_TRUE(Fails(Qianyi({"tokenize", "--model", empty.path(), "hello"}), 1,
                    {empty.path(), "no tokenizer", "cog-pretrain.model"}));
  EXPECT_TRUE(Fails(Qianyi({"tokenize", "--model", empty / "nowhere", "hello"}), 1, {"nowhere"}));
  const std::string folder = ChineseFolder(broken);
  const std::string path = folder + "/cog-pretrain.model";
  const std::string good = ReadText(path);
  for (const size_t size : {size_t{0}, size_t{1}, size_t{100}, good.size() / 2, good.size() - 1}) {
    WriteText(path, good.substr(0, size));
    EXPECT_TRUE(Fails(Qianyi({"tokenize", "--model", folder, "hello"}), 1, {"cog-pretrain.model"}))
        << size;
  }
  WriteText(path, std::string(5000, '\xff'));
  EXPECT_TRUE(Fails(Qianyi({"tokenize", "--model", folder, "hello"}), 1, {"cog-pretrain.model"}));
  WriteText(folder + "/config.json", "[]");
  EXPECT_TRUE(Fails(Qianyi({"tokenize", "--model", folder, "hello"}), 1, {"config.json"}));
}

// A small model over the Chinese vocabulary, of random weights: its text is nonsense, but text.
class GenerateText : public ::testing::Test {
 protected:
  GenerateText() : model_(temp_ / "model") {
    WriteText(temp_ / "config.json",
              R"({"model_type":"glm","num_layers":2,"hidden_size":64,"num_attention_heads":4,)"
              R"("max_sequence_length":128,"vocab_size":50048})");
    Output({"synth", "--config", temp_ / "config.json", "--dtype", "int8", model_});
    AddChinese(model_);
  }
  Arguments Generate(const Arguments& more, const char* max_tokens = "12") {
    return Arguments{"generate", "--model", model_,         "--quiet",
                     "--seed",   "3",       "--max-tokens", max_tokens} +
           more;
  }

  TempFolder temp_;
  std::string model_;
};

TEST_F(GenerateText, IsWhatItsIdsDecodeTo) {
  const Arguments prompt = {"--prompt", "床前明月光,[MASK]。"};
  const std::string ids = WithoutNewline(Output(Generate(prompt + Arguments{"--ids"})));
  const std::string text = Output(Generate(prompt));
  EXPECT_EQ(text, Output({"tokenize", "--model", model_, "--decode", ids}));
  EXPECT_GT(text.size(), 10u);
}

TEST_F(GenerateText, FillsEachBlankOnALineOfItsOwn) {
  const std::string text = Output(Generate({"--prompt", "[MASK]明月光,疑是[MASK]霜。"}));
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 2) << text;
  const std::string ids = Output(Generate({"--prompt", "[MASK]明月光,疑是[MASK]霜。", "--ids"}));
  EXPECT_EQ(std::count(ids.begin(), ids.end(), ';'), 1) << ids;
}

TEST_F(GenerateText, EndsBeforeAStopString) {
  const Arguments prompt = {"--prompt", "千亿"};
  const std::string whole = WithoutNewline(Output(Generate(prompt)));
  // A character in the middle of it.
  size_t at = whole.size() / 2;
  while ((whole[at] & 0xc0) == 0x80) ++at;
  size_t end = at + 1;
  while (end < whole.size() && (whole[end] & 0xc0) == 0x80) ++end;
  const std::string stop = whole.substr(at, end - at);
  EXPECT_EQ(WithoutNewline(Output(Generate(prompt + Arguments{"--stop", stop}))),
            whole.substr(0, whole.find(stop)));
}

TEST_F(GenerateText, RefusesPromptsThatAreNoTextOrTooLong) {
  EXPECT_TRUE(Fails(Qianyi(Generate({"--prompt", "ok \xff"})), 1, {"UTF-8", "byte 3"}));
  std::string longest;
  for (int i = 0; i < 200; ++i) longest += "千亿模型";
  EXPECT_TRUE(Fails(Qianyi(Generate({"--prompt", longest})), 1, {"tokens", "at most 128"}));
  EXPECT_TRUE(Fails(Qianyi(Generate({"--prompt", "千亿", "--context", "8"})), 1,
                    {"context is 8", "--context"}));
  EXPECT_TRUE(Fails(Qianyi(Generate({"--prompt", "千亿"}, "128")), 1, {"max_tokens 128", "128"}));
}

}  // namespace
}  // namespace qianyi::testing
