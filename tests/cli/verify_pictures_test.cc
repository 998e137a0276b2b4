// Replays of CogView's fixtures through the command.
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/cli/qianyi.h"
#include "tests/support/safetensors_text.h"

namespace qianyi::testing {
namespace {

class VerifyPictures : public ::testing::TestWithParam<const char*> {};

TEST_P(VerifyPictures, PassesAsItIs) {
  const std::string out = Output({"verify", Fixture(GetParam())});
  EXPECT_EQ(out.find("FAIL"), std::string::npos) << out;
  EXPECT_EQ(out.find("UNKNOWN"), std::string::npos) << out;
}

// What is expected only: an input that is changed may leave other values as they are.
bool IsExpected(const std::string& name) {
  for (const char* input :
       {".input_ids", ".position_ids", ".seq", ".text", ".code32", ".index", ".pivot_idx",
        "train.q", "train.k", "train.v", ".pixels", "filter.logits", "filter.ties.logits",
        // Half of it is -1e30, which 0.05 does not move.
        "step_logits_masked"}) {
    if (name.find(input) != std::string::npos) return false;
  }
  return true;
}

TEST_P(VerifyPictures, AnyChangedTensorFails) {
  const TempFolder temp;
  const std::string folder = temp / "fixture";
  CopyFolder(Fixture(GetParam()), folder);
  const std::string path = folder + "/cases.safetensors";
  const std::vector<TestTensor> tensors = ReadSafetensors(path);
  for (size_t t = 0; t < tensors.size(); t += 5) {
    if (tensors[t].dtype != "F32" || !IsExpected(tensors[t].name)) continue;
    std::vector<TestTensor> changed = tensors;
    changed[t].Add(changed[t].elements() / 2, 0.05);
    WriteText(path, SafetensorsText(changed));
    const ProcessResult result = Qianyi({"verify", folder, "--only", tensors[t].name});
    EXPECT_EQ(result.exit_code, 1) << tensors[t].name;
    EXPECT_NE(result.out.find("FAIL"), std::string::npos) << tensors[t].name;
  }
  std::vector<TestTensor> more = tensors;
  more.push_back(F32Tensor("something.new", {2}, {1.0f, 2.0f}));
  WriteText(path, SafetensorsText(more));
  const ProcessResult result = Qianyi({"verify", folder, "--only", "something.new"});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_NE(result.out.find("UNKNOWN"), std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(Folders, VerifyPictures, ::testing::Values("cogview", "vqvae"));

}  // namespace
}  // namespace qianyi::testing
