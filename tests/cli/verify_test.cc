// Replays of the fixtures through the command: they pass as they are, and any one number that
// is changed makes them fail.
#include <string>
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

}  // namespace
}  // namespace qianyi::testing
