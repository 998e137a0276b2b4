// The replay of FastMoE's gates and layers: passes as it is and in its other layouts, and fails
// when any number is changed.
#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/cli/qianyi.h"
#include "tests/support/safetensors_text.h"

namespace qianyi::testing {
namespace {

class VerifyFastMoe : public ::testing::Test {
 protected:
  VerifyFastMoe() : folder_(temp_ / "fixture"), weights_path_(folder_ + "/weights.safetensors") {
    CopyFolder(Fixture("fastmoe-gates"), folder_);
    weights_ = ReadSafetensors(weights_path_);
  }

  TestTensor& Weight(const std::string& name) { return Named(weights_, name); }
  std::vector<float> Floats(const std::string& name) { return FloatsOf(Weight(name)); }
  ProcessResult Layers() {
    WriteText(weights_path_, SafetensorsText(weights_));
    return Qianyi({"verify", folder_, "--only", "ffn.*"});
  }

  TempFolder temp_;
  const std::string folder_, weights_path_;
  std::vector<TestTensor> weights_;
};

TEST_F(VerifyFastMoe, PassesAsItIs) {
  const std::string out = Output({"verify", folder_});
  EXPECT_EQ(out.find("FAIL"), std::string::npos) << out;
  EXPECT_EQ(out.find("UNKNOWN"), std::string::npos) << out;
  for (const char* name : {"gshard.eval.cap0.25_0.3.random.idx", "noisy.train.k2.loss",
                           "ffn.switch_tight.output", "state_dict_names"}) {
    EXPECT_NE(out.find(name), std::string::npos) << name;
  }
}

// Fewer places than experts, so that nobody gets one; and a gate that takes all experts.
TEST(VerifyFastMoeFew, PassesAsItIs) {
  const std::string out = Output({"verify", Fixture("fastmoe-gates-few")});
  EXPECT_EQ(out.find("FAIL"), std::string::npos) << out;
  EXPECT_EQ(out.find("UNKNOWN"), std::string::npos) << out;
  for (const char* name : {"ffn.gshard_tight.output", "noisy.train.k8.loss"}) {
    EXPECT_NE(out.find(name), std::string::npos) << name;
  }
}

TEST_F(VerifyFastMoe, AnyChangedTensorFails) {
  const std::string path = folder_ + "/cases.safetensors";
  const std::vector<TestTensor> tensors = ReadSafetensors(path);
  for (size_t t = 0; t < tensors.size(); t += 5) {
    if (tensors[t].name.starts_with("random.") || tensors[t].name == "input") continue;
    std::vector<TestTensor> changed = tensors;
    const size_t middle = changed[t].elements() / 2;
    if (changed[t].dtype == "F32") {
      changed[t].Add(middle, 0.05);
    } else {
      changed[t].bytes[changed[t].bytes.size() / changed[t].elements() * middle] ^= 2;
    }
    WriteText(path, SafetensorsText(changed));
    const ProcessResult result = Qianyi({"verify", folder_, "--only", tensors[t].name});
    EXPECT_EQ(result.exit_code, 1) << tensors[t].name;
    EXPECT_NE(result.out.find("FAIL"), std::string::npos) << tensors[t].name;
  }
}

TEST_F(VerifyFastMoe, AnyChangedFieldFails) {
  const nlohmann::json good = nlohmann::json::parse(ReadText(folder_ + "/cases.json"));
  for (const auto& [name, field] : std::vector<std::pair<const char*, const char*>>{
           {"gshard.train.cap0.5_0.6.fixed", "capacity"},
           {"switch.eval.cap0.25_0.3", "dropped"},
           {"ffn.naive3", "dropped"}}) {
    nlohmann::json changed = good;
    changed[name][field] = changed[name][field].get<int>() + 1;
    WriteText(folder_ + "/cases.json", changed.dump());
    EXPECT_EQ(Qianyi({"verify", folder_}).exit_code, 1) << name;
  }
  nlohmann::json changed = good;
  changed["naive.k2"]["load"][1] = 5;
  WriteText(folder_ + "/cases.json", changed.dump());
  EXPECT_EQ(Qianyi({"verify", folder_}).exit_code, 1);
  changed = good;
  changed["something new"] = 5;
  WriteText(folder_ + "/cases.json", changed.dump());
  EXPECT_NE(Qianyi({"verify", folder_}).out.find("UNKNOWN"), std::string::npos);
}

// All experts in one tensor, as FastMoE stored them first.
TEST_F(VerifyFastMoe, OneTensorForAllExperts) {
  std::vector<TestTensor> fused;
  for (const char* what : {"htoh4.weight", "htoh4.bias", "h4toh.weight", "h4toh.bias"}) {
    std::vector<float> values;
    std::vector<int64_t> shape;
    for (int e = 0; e < 4; ++e) {
      const std::string name = absl::StrCat("experts.", e, ".", what);
      const std::vector<float> part = Floats(name);
      values.insert(values.end(), part.begin(), part.end());
      shape = Weight(name).shape;
    }
    shape[0] = 4;
    fused.push_back(F32Tensor(absl::StrCat("experts.", what), shape, values));
  }
  std::erase_if(weights_, [](const TestTensor& t) { return t.name.starts_with("experts."); });
  weights_.insert(weights_.end(), fused.begin(), fused.end());
  const ProcessResult result = Layers();
  EXPECT_EQ(result.exit_code, 0) << result.out << result.err;
  EXPECT_NE(result.out.find("ffn.gshard_random.output"), std::string::npos);
}

// Expert 1 gets 23 more hidden units that its second matrix does not heed: another shape than its
// neighbours, and the same output.
TEST_F(VerifyFastMoe, ExpertsOfDifferentShapes) {
  constexpr int kMore = 23, kFfn = 32, kSize = 16;
  std::vector<float> up = Floats("experts.1.htoh4.weight"), bias = Floats("experts.1.htoh4.bias");
  for (int i = 0; i < kMore * kSize; ++i) up.push_back(0.1f * static_cast<float>(i % 7 - 3));
  for (int i = 0; i < kMore; ++i) bias.push_back(0.5f);
  const std::vector<float> down = Floats("experts.1.h4toh.weight");
  std::vector<float> wider;
  for (int r = 0; r < kSize; ++r) {
    wider.insert(wider.end(), down.begin() + r * kFfn, down.begin() + (r + 1) * kFfn);
    wider.insert(wider.end(), kMore, 0.0f);
  }
  Weight("experts.1.htoh4.weight") =
      F32Tensor("experts.1.htoh4.weight", {1, kFfn + kMore, kSize}, up);
  Weight("experts.1.htoh4.bias") = F32Tensor("experts.1.htoh4.bias", {1, kFfn + kMore}, bias);
  Weight("experts.1.h4toh.weight") =
      F32Tensor("experts.1.h4toh.weight", {1, kSize, kFfn + kMore}, wider);
  EXPECT_EQ(Layers().exit_code, 0);
  // And it is heeded when its second matrix does.
  Weight("experts.1.h4toh.weight").Add(kFfn + 2, 1.0);
  EXPECT_EQ(Layers().exit_code, 1);
}

TEST_F(VerifyFastMoe, NamesWhatIsWrongWithTheWeights) {
  const std::vector<TestTensor> good = weights_;
  std::erase_if(weights_, [](const TestTensor& t) { return t.name == "experts.2.htoh4.weight"; });
  EXPECT_TRUE(Fails(Layers(), 1, {"experts.2.htoh4.weight"}));
  weights_ = good;
  std::erase_if(weights_, [](const TestTensor& t) { return t.name == "experts.2.h4toh.bias"; });
  EXPECT_TRUE(Fails(Layers(), 1, {"experts.2.h4toh.bias"}));
  weights_ = good;
  std::erase_if(weights_, [](const TestTensor& t) { return t.name == "gate.gate.weight"; });
  EXPECT_TRUE(Fails(Layers(), 1, {"gate.gate.weight"}));
}

}  // namespace
}  // namespace qianyi::testing
