// Replays of CogView's fixtures through the command.
#include <algorithm>
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

// More rows of logits in one pass than any case of the fixture has.
TEST(VerifyPicturesTest, ABatchOfAnySize) {
  const TempFolder temp;
  const std::string folder = temp / "fixture";
  CopyFolder(Fixture("cogview"), folder);
  const std::string path = folder + "/cases.safetensors";
  std::vector<TestTensor> tensors = ReadSafetensors(path);
  for (TestTensor& tensor : tensors) {
    if (!tensor.name.starts_with("forward.")) continue;
    const std::string once = tensor.bytes;
    for (int i = 1; i < 9; ++i) tensor.bytes += once;
    tensor.shape[0] *= 9;
  }
  WriteText(path, SafetensorsText(tensors));
  const ProcessResult run = Qianyi({"verify", folder, "--only", "forward."});
  EXPECT_EQ(run.exit_code, 0) << run.out << run.err;
  EXPECT_NE(run.out.find("forward.logits"), std::string::npos);
}

// Widths of `from` become one more, of zeros.
TestTensor Widened(const TestTensor& tensor, int64_t from) {
  std::vector<int64_t> shape = tensor.shape;
  int64_t count = 1;
  for (int64_t& size : shape) count *= size += size == from ? 1 : 0;
  const std::vector<float> old = FloatsOf(tensor);
  std::vector<float> values(count, 0.0f);
  for (size_t i = 0; i < old.size(); ++i) {
    int64_t at = 0, stride = 1, rest = static_cast<int64_t>(i);
    for (size_t d = shape.size(); d-- > 0; rest /= tensor.shape[d], stride *= shape[d]) {
      at += rest % tensor.shape[d] * stride;
    }
    values[at] = old[i];
  }
  return F32Tensor(tensor.name, shape, values);
}

TEST(VerifyPicturesTest, ChannelsOfAnyNumber) {
  const TempFolder temp;
  const std::string folder = temp / "fixture";
  CopyFolder(Fixture("vqvae"), folder);
  nlohmann::json config = nlohmann::json::parse(ReadText(folder + "/config.json"));
  nlohmann::json& channel = config["variants"]["main"]["channel"];
  const auto width = channel.get<int64_t>();
  channel = width + 1;
  WriteText(folder + "/config.json", config.dump());
  const std::string weights = folder + "/weights.safetensors",
                    cases = folder + "/cases.safetensors";
  for (const std::string& path : {weights, cases}) {
    std::vector<TestTensor> tensors = ReadSafetensors(path);
    for (TestTensor& tensor : tensors) {
      const bool wide = path == weights ? tensor.name.find(".blocks.") != std::string::npos
                                        : tensor.name.find(".stage") != std::string::npos;
      if (wide && tensor.name.starts_with("main.")) tensor = Widened(tensor, width);
    }
    WriteText(path, SafetensorsText(tensors));
  }
  const ProcessResult run = Qianyi({"verify", folder, "--only", "main."});
  EXPECT_EQ(run.exit_code, 0) << run.out << run.err;
  EXPECT_NE(run.out.find("main.decode.stage2"), std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(Folders, VerifyPictures, ::testing::Values("cogview", "vqvae"));

// Other sizes and seeds, by scripts/fixtures/wudao_*: one head, one layer, few codes, an odd grid.
class VerifyOtherPictures : public ::testing::TestWithParam<const char*> {};

TEST_P(VerifyOtherPictures, PassesAsItIs) {
  const std::string out = Output({"verify", Fixture(GetParam())});
  EXPECT_EQ(out.find("FAIL"), std::string::npos) << out;
  EXPECT_EQ(out.find("UNKNOWN"), std::string::npos) << out;
}

INSTANTIATE_TEST_SUITE_P(Folders, VerifyOtherPictures,
                         ::testing::Values("cogview-one-head", "vqvae-few-codes", "vqvae-odd-grid",
                                           "vqvae-long-distances"),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace qianyi::testing
