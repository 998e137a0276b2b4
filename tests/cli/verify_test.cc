// Replays of the fixtures through the command: they pass as they are, and any one number that
// is changed makes them fail.
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tests/cli/qianyi.h"
#include "tests/support/safetensors_text.h"

namespace qianyi::testing {
namespace {

class VerifyCommand : public ::testing::TestWithParam<const char*> {
 protected:
  std::string Copy() {
    const std::string folder = temp_ / "fixture";
    CopyFolder(Fixture(GetParam()), folder);
    return folder;
  }
  TempFolder temp_;
};

TEST_P(VerifyCommand, PassesAsItIs) {
  const std::string out = Output({"verify", Fixture(GetParam())});
  EXPECT_EQ(out.find("FAIL"), std::string::npos);
  EXPECT_EQ(out.find("UNKNOWN"), std::string::npos);
  EXPECT_NE(out.find(".greedy_tokens"), std::string::npos);
}

TEST_P(VerifyCommand, AnyChangedTensorFails) {
  const std::string folder = Copy();
  const std::string path = folder + "/cases.safetensors";
  std::vector<TestTensor> tensors = ReadSafetensors(path);
  for (size_t t = 0; t < tensors.size(); t += 3) {
    std::vector<TestTensor> changed = tensors;
    changed[t].Add(changed[t].elements() / 2, 0.05);
    WriteText(path, SafetensorsText(changed));
    const ProcessResult result = Qianyi({"verify", folder, "--only", tensors[t].name});
    EXPECT_EQ(result.exit_code, 1) << tensors[t].name;
    EXPECT_NE(result.out.find("FAIL"), std::string::npos) << tensors[t].name;
  }
}

TEST_P(VerifyCommand, AnyChangedNumberOfTheCasesFails) {
  const std::string folder = Copy();
  const nlohmann::json good = nlohmann::json::parse(ReadText(folder + "/cases.json"));
  for (const char* field : {"continuation_logprob_sum", "greedy_min_top1_top2_margin"}) {
    nlohmann::json changed = good;
    changed["cases"][0][field] = changed["cases"][0][field].get<double>() + 0.05;
    WriteText(folder + "/cases.json", changed.dump());
    EXPECT_EQ(Qianyi({"verify", folder}).exit_code, 1) << field;
  }
  nlohmann::json changed = good;
  changed["cases"][0]["continuation_logprobs"][2] =
      changed["cases"][0]["continuation_logprobs"][2].get<double>() - 0.05;
  WriteText(folder + "/cases.json", changed.dump());
  EXPECT_EQ(Qianyi({"verify", folder}).exit_code, 1);
  changed = good;
  changed["cases"][0]["greedy_tokens"][5] = changed["cases"][0]["greedy_tokens"][5].get<int>() + 1;
  WriteText(folder + "/cases.json", changed.dump());
  EXPECT_EQ(Qianyi({"verify", folder}).exit_code, 1);
}

TEST_P(VerifyCommand, ATensorThatNothingReplaysIsUnknown) {
  const std::string folder = Copy();
  const std::string path = folder + "/cases.safetensors";
  std::vector<TestTensor> tensors = ReadSafetensors(path);
  tensors.push_back(F32Tensor("chat_short.something_new", {2}, {1.0f, 2.0f}));
  WriteText(path, SafetensorsText(tensors));
  const ProcessResult result = Qianyi({"verify", folder});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_NE(result.out.find("UNKNOWN"), std::string::npos);
}

TEST_P(VerifyCommand, OnlyNarrows) {
  const std::string folder = Copy();
  const std::string path = folder + "/cases.safetensors";
  std::vector<TestTensor> tensors = ReadSafetensors(path);
  for (TestTensor& tensor : tensors) {
    if (tensor.name.ends_with(".logits")) tensor.Add(0, 0.05);
  }
  WriteText(path, SafetensorsText(tensors));
  // What is wrong elsewhere does not matter; what is wrong there does.
  EXPECT_EQ(Qianyi({"verify", folder, "--only", "greedy_tokens"}).exit_code, 0);
  EXPECT_EQ(Qianyi({"verify", folder, "--only", ".logits"}).exit_code, 1);
  EXPECT_TRUE(
      Fails(Qianyi({"verify", folder, "--only", "nothing-like-it"}), 1, {folder, "nothing"}));
}

TEST_P(VerifyCommand, RefusesFilesThatAreNoFixture) {
  const std::string folder = Copy();
  const auto refuses = [&](const std::string& file, std::string_view text,
                           const std::vector<std::string>& words) {
    const std::string path = folder + "/" + file;
    const std::string good = ReadText(path);
    WriteText(path, text);
    EXPECT_TRUE(Fails(Qianyi({"verify", folder}), 1, words)) << file << ": " << text.substr(0, 50);
    WriteText(path, good);
  };
  const std::string deep(100000, '[');
  refuses("config.json", R"({"fixture":5})", {"config.json", "fixture"});
  for (const std::string& text : {std::string("{"), deep}) {
    refuses("config.json", text, {"config.json"});
    refuses("cases.json", text, {"cases.json"});
  }
  refuses("cases.json", R"({"cases":5})", {"cases.json", "cases"});
  refuses("cases.json", R"({"cases":[5]})", {"cases.json"});
  refuses("cases.json", R"({"cases":[{"name":5}]})", {"cases.json", "name"});
  for (const char* file : {"cases.safetensors", "weights.safetensors"}) {
    const std::string whole = ReadText(folder + "/" + file);
    refuses(file, "", {file});
    refuses(file, std::string_view(whole).substr(0, whole.size() - 4), {file});
  }
  EXPECT_EQ(Qianyi({"verify", folder}).exit_code, 0);
}

// Numbers that no model can take: an error, not a crash and not a huge allocation.
TEST_P(VerifyCommand, RefusesCasesThatLie) {
  const std::string folder = Copy();
  const nlohmann::json good = nlohmann::json::parse(ReadText(folder + "/cases.json"));
  const char* prompt = GetParam() == std::string("chatglm2") ? "prompt_ids" : "context_ids";
  const std::pair<const char*, nlohmann::json> lies[] = {
      {"sep", 1 << 30},
      {"sep", -1},
      {"out_seq_length", int64_t{1} << 62},
      {"input_ids", {1, 2, 1 << 30}},
      {"input_ids", {1, -2}},
      {"input_ids", nlohmann::json::array()},
      {"position_ids", {1 << 30}},
      {"greedy_tokens", std::vector<int>(3000, 1)},
      {"greedy_tokens", "many"},
      {prompt, {1 << 30}},
      {prompt, std::vector<int>(5000, 1)}};
  for (const auto& [field, value] : lies) {
    nlohmann::json cases = good;
    for (nlohmann::json& one : cases["cases"]) {
      one[field] = value;
      // What reads that field.
      if (field == std::string("out_seq_length")) one["blanks"] = {nlohmann::json::object()};
    }
    WriteText(folder + "/cases.json", cases.dump());
    const ProcessResult run = Qianyi({"verify", folder});
    EXPECT_EQ(run.exit_code, 1) << field << "\n" << run.err;
    EXPECT_NE(run.err.find("qianyi: "), std::string::npos) << field << "\n" << run.err;
  }
}

INSTANTIATE_TEST_SUITE_P(Models, VerifyCommand, ::testing::Values("glm-blocklm", "chatglm2"),
                         [](const auto& test) {
                           return std::string(test.param) == "chatglm2" ? "chatglm2" : "glm";
                         });

TEST(VerifyCommandTest, NamesKindsItDoesNotKnow) {
  const TempFolder temp;
  WriteText(temp / "config.json", R"({"fixture":"perpetuum-mobile"})");
  const ProcessResult result = Qianyi({"verify", temp.path()});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_NE(result.err.find("perpetuum-mobile"), std::string::npos) << result.err;
}

TEST(VerifyCommandTest, GoesOnAfterAFolderThatIsBroken) {
  const TempFolder temp;
  const std::string good = Fixture("chatglm2");
  for (const Arguments& order : {Arguments{temp.path(), good}, Arguments{good, temp.path()}}) {
    const ProcessResult run = Qianyi(Arguments{"verify"} + order);
    EXPECT_EQ(run.exit_code, 1);
    EXPECT_NE(run.out.find(".greedy_tokens"), std::string::npos) << run.out;
    EXPECT_NE(run.err.find(temp.path()), std::string::npos) << run.err;
  }
}

}  // namespace
}  // namespace qianyi::testing
