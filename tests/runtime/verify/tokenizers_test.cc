#include "runtime/verify/tokenizers.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "tests/support/paths.h"

namespace qianyi {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;
using Result = VerifyLine::Result;

int Count(const VerifyReport& report, Result result) {
  return static_cast<int>(
      std::count_if(report.lines().begin(), report.lines().end(),
                    [&](const VerifyLine& line) { return line.result == result; }));
}

// The one line that is not ok; empty when there are none or several.
VerifyLine TheBadLine(const VerifyReport& report) {
  std::vector<VerifyLine> bad;
  std::string names;
  for (const VerifyLine& line : report.lines()) {
    if (line.result == Result::kOk) continue;
    bad.push_back(line);
    names += line.name + " ";
  }
  EXPECT_EQ(bad.size(), 1u) << names;
  return bad.size() == 1 ? bad[0] : VerifyLine();
}

absl::Status Verify(const std::string& folder, VerifyReport& report) {
  return folder.find("gpt2") != std::string::npos ? VerifyTokenizerGpt2(folder, report)
                                                  : VerifyTokenizerCog(folder, report);
}

// A copy of a fixture folder that may be changed, beside the files it names.
class VerifyTokenizers : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const std::string pattern = (fs::temp_directory_path() / "qianyi-verify-XXXXXX").string();
    std::vector<char> name(pattern.c_str(), pattern.c_str() + pattern.size() + 1);
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    parent_ = name.data();
    fs::create_directory_symlink(qianyi::testing::FixturePath("tokenizers"),
                                 parent_ / "tokenizers");
    folder_ = parent_ / GetParam();
    fs::copy(fs::path(qianyi::testing::FixturePath()) / GetParam(), folder_);
  }
  void TearDown() override { fs::remove_all(parent_); }

  void ChangeJson(const std::string& file, const std::function<void(ordered_json&)>& change) {
    std::ifstream in(folder_ / file);
    ordered_json json = ordered_json::parse(in);
    change(json);
    std::ofstream(folder_ / file) << json.dump();
  }
  void ChangeCases(const std::function<void(ordered_json&)>& change) {
    ChangeJson("cases.json", change);
  }
  // Adds one to the first byte of a tensor's element `index`, of 8 bytes or 1.
  void ChangeTensor(const std::string& tensor, size_t index) {
    std::ifstream in(folder_ / "cases.safetensors", std::ios::binary);
    std::string bytes{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
    uint64_t header = 0;
    std::copy_n(bytes.data(), 8, reinterpret_cast<char*>(&header));
    const ordered_json entry = ordered_json::parse(bytes.substr(8, header)).at(tensor);
    const size_t size = entry.at("dtype") == "U8" ? 1 : 8;
    bytes[8 + header + entry.at("data_offsets").at(0).get<size_t>() + index * size] ^= 1;
    std::ofstream(folder_ / "cases.safetensors", std::ios::binary) << bytes;
  }
  void RenameTensor(const std::string& from, const std::string& to) {
    ASSERT_EQ(from.size(), to.size());
    std::ifstream in(folder_ / "cases.safetensors", std::ios::binary);
    std::string bytes{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
    const size_t at = bytes.find('"' + from + '"');
    ASSERT_NE(at, std::string::npos);
    bytes.replace(at + 1, to.size(), to);
    std::ofstream(folder_ / "cases.safetensors", std::ios::binary) << bytes;
  }
  bool gpt2() const { return std::string(GetParam()) == "tokenizer-gpt2"; }
  std::string ids() const { return gpt2() ? "ids" : "glm_ids"; }

  fs::path parent_;
  fs::path folder_;
};

INSTANTIATE_TEST_SUITE_P(All, VerifyTokenizers,
                         ::testing::Values("tokenizer-gpt2", "tokenizer-cog"));

TEST_P(VerifyTokenizers, TheReferenceHolds) {
  VerifyReport report("");
  ASSERT_TRUE(Verify(folder_, report).ok());
  EXPECT_EQ(Count(report, Result::kFail), 0);
  EXPECT_EQ(Count(report, Result::kUnknown), 0);
  // Every case has its lines: at least one per expected field.
  EXPECT_GE(report.lines().size(), gpt2() ? 185u * 3 + 60 : 220u * 6 + 60 * 3 + 16 + 3 + 8);
}

TEST_P(VerifyTokenizers, OneChangedIdFailsItsLine) {
  ChangeCases([&](ordered_json& cases) {
    ordered_json& id = cases["encode"][5][ids()][2];
    id = id.get<int>() + 1;
  });
  VerifyReport all("");
  ASSERT_TRUE(Verify(folder_, all).ok());
  EXPECT_TRUE(std::any_of(all.lines().begin(), all.lines().end(), [&](const VerifyLine& line) {
    return line.name == "encode[5]." + ids() && line.result == Result::kFail &&
           line.difference == 1;
  }));
}

TEST_P(VerifyTokenizers, OneChangedTextFailsItsLine) {
  const std::string field = gpt2() ? "decoded" : "glm_decoded";
  ChangeCases([&](ordered_json& cases) { cases["decode"][7][field] = "x"; });
  VerifyReport report("");
  ASSERT_TRUE(Verify(folder_, report).ok());
  EXPECT_EQ(TheBadLine(report).name, "decode[7]." + field);
}

TEST_P(VerifyTokenizers, AChangedVariantFails) {
  const std::string field = ids() + "_plain";
  ChangeCases([&](ordered_json& cases) {
    for (ordered_json& entry : cases["encode"]) {
      if (!entry.contains(field)) continue;
      entry[field][0] = 1;
      break;
    }
  });
  VerifyReport report("");
  ASSERT_TRUE(Verify(folder_, report).ok());
  EXPECT_NE(TheBadLine(report).name.find(field), std::string::npos);
}

// It says that the variant's ids are those of the first, which they are not.
TEST_P(VerifyTokenizers, ALeftOutVariantFails) {
  const std::string field = ids() + "_plain";
  ChangeCases([&](ordered_json& cases) {
    for (ordered_json& entry : cases["encode"]) {
      if (entry.erase(field) > 0) break;
    }
  });
  VerifyReport report("");
  ASSERT_TRUE(Verify(folder_, report).ok());
  EXPECT_NE(TheBadLine(report).name.find(field), std::string::npos);
}

TEST_P(VerifyTokenizers, OneChangedNumberOfATensorFails) {
  for (const std::string& tensor :
       {ids() + ".flat", ids() + ".offsets", std::string("text.utf8"), std::string("text.offsets"),
        std::string("decode.ids.flat"), std::string("decode.ids.offsets"),
        std::string(gpt2() ? "decode.text.utf8" : "decode.glm_text.utf8"),
        std::string(gpt2() ? "decode.text.offsets" : "cogview_ids.flat")}) {
    ChangeTensor(tensor, 3);
    VerifyReport report("");
    ASSERT_TRUE(Verify(folder_, report).ok());
    const VerifyLine bad = TheBadLine(report);
    EXPECT_EQ(bad.name, tensor);
    EXPECT_EQ(bad.result, Result::kFail);
    EXPECT_EQ(bad.difference, 1);
    ChangeTensor(tensor, 3);  // back
  }
}

TEST_P(VerifyTokenizers, UnknownNamesAreUnknown) {
  ChangeCases([](ordered_json& cases) {
    cases["encode"][2]["surprise"] = 1;
    cases["decode"][2]["surprise"] = 1;
    cases["more"] = {1, 2};
    cases["encode"][3]["ids_of_nobody"] = {1};
    cases["encode"][3]["glm_ids_of_nobody"] = {1};
  });
  RenameTensor("decode.ids.flat", "decode.ids.flut");
  VerifyReport report("");
  ASSERT_TRUE(Verify(folder_, report).ok());
  EXPECT_EQ(Count(report, Result::kFail), 0);
  std::vector<std::string> unknown;
  for (const VerifyLine& line : report.lines()) {
    if (line.result == Result::kUnknown) unknown.push_back(line.name);
  }
  std::sort(unknown.begin(), unknown.end());
  EXPECT_EQ(unknown, (std::vector<std::string>{"decode.ids.flut", "decode[2].surprise",
                                               "encode[2].surprise", "encode[3].glm_ids_of_nobody",
                                               "encode[3].ids_of_nobody", "more"}));
}

// Ids come from the folder's tables: other numbers there are other ids.
TEST_P(VerifyTokenizers, TheFoldersTablesCount) {
  ChangeJson("config.json", [&](ordered_json& config) {
    ordered_json& first = config[gpt2() ? "variants" : "glm_variants"].begin().value();
    for (ordered_json& command : first["commands"]) {
      if (command["name"] == "MASK") command["id"] = 60000;
    }
  });
  VerifyReport report("");
  ASSERT_TRUE(Verify(folder_, report).ok());
  EXPECT_GT(Count(report, Result::kFail), 5);
}

TEST_P(VerifyTokenizers, OnlyNarrowsTheReport) {
  VerifyReport report("encode[17]");
  ASSERT_TRUE(Verify(folder_, report).ok());
  ASSERT_FALSE(report.lines().empty());
  for (const VerifyLine& line : report.lines()) EXPECT_EQ(line.name.substr(0, 11), "encode[17].");
}

TEST_P(VerifyTokenizers, MalformedCasesFailWithoutHarm) {
  ChangeCases([](ordered_json& cases) {
    cases["encode"][0] = 5;
    cases["encode"][1]["text"] = 5;
    cases["encode"][2] = ordered_json::array({1});
    cases["decode"][0]["ids"] = {1.5};
    cases["decode"][1]["ids"] = {18446744073709551615u};
    cases["decode"][2]["ids"] = "x";
    cases["wrap_code"] = {5, {{"wrap_code_len", "x"}, {"idx", -1}, {"ids_head", {1}}}};
    cases["queries"] = {5, {{"query", 5}, {"ids", "x"}}};
  });
  VerifyReport report("");
  ASSERT_TRUE(Verify(folder_, report).ok());
  EXPECT_GT(Count(report, Result::kFail), 5);
}

TEST_P(VerifyTokenizers, AFolderThatCannotBeReplayedIsAnError) {
  VerifyReport report("");
  fs::remove(parent_ / "tokenizers");
  EXPECT_EQ(Verify(folder_, report).code(), absl::StatusCode::kNotFound);
  ChangeJson("config.json", [](ordered_json& config) {
    config.erase("model_file");
    config.erase("vocab_file");
  });
  EXPECT_EQ(Verify(folder_, report).code(), absl::StatusCode::kInvalidArgument);
  fs::remove(folder_ / "cases.safetensors");
  EXPECT_EQ(Verify(folder_, report).code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace qianyi
