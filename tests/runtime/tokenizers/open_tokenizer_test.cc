#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "runtime/tokenizers/tokenizer.h"
#include "tests/runtime/tokenizers/sentencepiece_file.h"
#include "tests/support/paths.h"

namespace qianyi {
namespace {

namespace fs = std::filesystem;
using Ids = std::vector<int32_t>;

constexpr const char* kVocabulary = R"({"a": 0, "b": 1, "ab": 2})";
constexpr const char* kMerges = "#version: 0.2\na b\n";

class OpenTokenizerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string pattern = (fs::temp_directory_path() / "qianyi-tokenizer-XXXXXX").string();
    std::vector<char> name(pattern.c_str(), pattern.c_str() + pattern.size() + 1);
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    parent_ = name.data();
    folder_ = parent_ / "model";
    fs::create_directories(folder_ / "sub");
  }
  void TearDown() override { fs::remove_all(parent_); }

  void Write(const fs::path& path, const std::string& text) {
    std::ofstream(path, std::ios::binary) << text;
  }
  void WriteConfig(const std::string& text) { Write(folder_ / "config.json", text); }
  static std::string SmallModel() {
    SentencePieceFile file;
    file.Add("\xE2\x96\x81", -1);
    file.Add("a", -2);
    return file.Bytes();
  }
  std::string Error() {
    const auto opened = OpenTokenizer(folder_.string());
    EXPECT_FALSE(opened.ok());
    return opened.status().ToString();
  }
  void ExpectIds(const std::string& text, const Ids& want) {
    const auto opened = OpenTokenizer(folder_.string());
    ASSERT_TRUE(opened.ok()) << opened.status();
    EXPECT_EQ(*(*opened)->Encode(text, true), want);
  }

  fs::path parent_;
  fs::path folder_;
};

TEST_F(OpenTokenizerTest, FindsGpt2Files) {
  Write(folder_ / "vocab.json", kVocabulary);
  Write(folder_ / "merges.txt", kMerges);
  ExpectIds("ab[MASK]", {2, 50260});
  WriteConfig("{}");
  ExpectIds("ab[MASK]", {2, 50260});
}

TEST_F(OpenTokenizerTest, FindsTheChineseModel) {
  Write(folder_ / "cog-pretrain.model", SmallModel());
  ExpectIds("a[gMASK]", {3, 4, 50009});
}

TEST_F(OpenTokenizerTest, ATokenizerModelIsWhoseTheConfigSays) {
  Write(folder_ / "tokenizer.model", SmallModel());
  WriteConfig(R"({"model_type": "chatglm"})");
  ExpectIds("a[gMASK]", {3, 4, 6});  // the commands follow the pieces
  WriteConfig(R"({"model_type": "glm"})");
  ExpectIds("a[gMASK]", {3, 4, 50009});
}

TEST_F(OpenTokenizerTest, FindsTheFilesOfTheChatModels) {
  const fs::path fixtures = qianyi::testing::FixturePath("glm-tokenizers");
  const auto take = [&](const char* from, const char* to) {
    fs::copy_file(fixtures / from, folder_ / to, fs::copy_options::overwrite_existing);
  };
  const auto first_of = [&](const std::string& text) {
    const auto opened = OpenTokenizer(folder_.string());
    EXPECT_TRUE(opened.ok()) << opened.status();
    return opened.ok() ? (*opened)->Encode(text, true)->at(0) : -1;
  };
  WriteConfig(R"({"model_type": "chatglm", "vocab_size": 150528})");
  take("ranks.model", "tokenizer.model");
  EXPECT_EQ(first_of("<|endoftext|>"), OpenTokenizer(folder_.string()).value()->vocab_size() - 14);
  take("chatglm.model", "tokenizer.model");
  EXPECT_EQ(first_of("[MASK]"), 500);
  take("icetk-unigram.model", "ice_text.model");
  EXPECT_EQ(first_of("[MASK]"), 20240);
  WriteConfig(R"({"model_type": "chatglm", "vocab_size": 130528})");
  EXPECT_EQ(first_of("[MASK]"), 240);
  take("tokenizer.json", "tokenizer.json");
  WriteConfig(R"({"model_type": "glm4_moe"})");
  EXPECT_EQ(first_of("<think>"), OpenTokenizer(folder_.string()).value()->WordId("<think>"));
  WriteConfig(R"({"tokenizer": {"kind": "icetk", "model_file": "ice_text.model",
                  "image_tokens": 20000, "dummy_prefix": false}})");
  EXPECT_EQ(first_of("\n"), 20003);
  WriteConfig(R"({"tokenizer": {"kind": "icetk", "model_file": "ice_text.model",
                  "image_tokens": -1}})");
  EXPECT_NE(Error().find("image_tokens"), std::string::npos);
}

TEST_F(OpenTokenizerTest, AStandardTableIsNotLaidOverAnotherVocabulary) {
  Write(folder_ / "vocab.json", R"({"a": 0, "[MASK]": 50261})");
  Write(folder_ / "merges.txt", kMerges);
  EXPECT_NE(Error().find("token 50261 is not the command [SEP]"), std::string::npos) << Error();
  Write(folder_ / "vocab.json", R"({"a": 0, "[MASK]": 50260})");
  ExpectIds("[MASK]", {50260});
}

TEST_F(OpenTokenizerTest, TheConfigurationComesFirst) {
  Write(folder_ / "vocab.json", "broken");
  Write(folder_ / "merges.txt", "broken");
  Write(folder_ / "sub" / "v.json", kVocabulary);
  Write(parent_ / "m.txt", kMerges);  // beside the folder
  WriteConfig(
      R"({"tokenizer": {"kind": "gpt2-bpe", "vocab_file": "sub/v.json", "merges_file": "m.txt",
                  "commands": [{"name": "MASK", "token": "<m>", "id": 9, "lstrip": true}]}})");
  ExpectIds("ab <m>", {2, 9});
}

TEST_F(OpenTokenizerTest, CommandsMayBeAStandardTableOrLeftOut) {
  Write(folder_ / "s.model", SmallModel());
  WriteConfig(R"({"tokenizer": {"kind": "sentencepiece", "model_file": "s.model"}})");
  ExpectIds("a[gMASK]", {3, 4, 50009});
  WriteConfig(R"({"tokenizer": {"kind": "sentencepiece", "model_file": "s.model",
                  "commands": "glm-chinese-not-fixed"}})");
  ExpectIds("a[gMASK]", {3, 4, 50007});
  WriteConfig(
      R"({"tokenizer": {"kind": "sentencepiece", "model_file": "s.model", "commands": []}})");
  ExpectIds("a", {3, 4});
}

TEST_F(OpenTokenizerTest, AFolderMayEndWithASlash) {
  Write(parent_ / "s.model", SmallModel());
  WriteConfig(R"({"tokenizer": {"kind": "sentencepiece", "model_file": "s.model"}})");
  EXPECT_TRUE(OpenTokenizer(folder_.string() + "/").ok());
  EXPECT_TRUE(OpenTokenizer(folder_.string() + "/sub/..").ok());
}

TEST_F(OpenTokenizerTest, ErrorsNameTheFieldAndTheFile) {
  EXPECT_NE(Error().find("no tokenizer"), std::string::npos);
  const auto expect = [&](const std::string& config, const std::string& message) {
    WriteConfig(config);
    const std::string error = Error();
    EXPECT_NE(error.find(message), std::string::npos) << error;
    EXPECT_NE(error.find("config.json"), std::string::npos) << error;
  };
  expect("[", "not a JSON object");
  expect(R"({"tokenizer": 3})", "not an object");
  expect(R"({"tokenizer": {}})", "\"kind\" is \"\"");
  expect(R"({"tokenizer": {"kind": "other"}})", "\"kind\" is \"other\"");
  expect(R"({"tokenizer": {"kind": "sentencepiece"}})", "\"model_file\" must name a file");
  expect(R"({"tokenizer": {"kind": "sentencepiece", "model_file": ""}})", "\"model_file\"");
  expect(R"({"tokenizer": {"kind": "sentencepiece", "model_file": "none"}})", "there is no none");
  Write(parent_ / "s.model", SmallModel());
  expect(R"({"tokenizer": {"kind": "sentencepiece", "model_file": "../s.model"}})", "..");
  expect(R"({"tokenizer": {"kind": "sentencepiece", "model_file": ")" +
             (parent_ / "s.model").string() + "\"}}",
         "relative");
  expect(R"({"tokenizer": {"kind": "sentencepiece", "model_file": "s.model", "commands": "x"}})",
         "no known table: x");
  expect(R"({"tokenizer": {"kind": "sentencepiece", "model_file": "s.model", "commands": [1]}})",
         "command 0");
}

}  // namespace
}  // namespace qianyi
