// Folders that are damaged, or use what cannot be run: refused by name.
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "runtime/adapters/adapter_set.h"
#include "runtime/adapters/lora_file.h"
#include "runtime/adapters/prefix_file.h"
#include "tests/runtime/adapters/adapter_folders.h"
#include "tests/runtime/engine_setup.h"
#include "tests/support/temp_folder.h"

namespace qianyi {
namespace {

using nlohmann::json;
using testing::LoraFolder;
using testing::PrefixFolder;
using testing::TestTensor;

class AdapterFilesTest : public ::testing::Test {
 protected:
  AdapterFilesTest() : model_(Lay(kCausal, {DType::kF16})), folder_(temp_ / "adapter") {
    auto kv = KvCache::Create(model_.spec.kv, DType::kF16, 4, Cpu(), 8);
    EXPECT_TRUE(kv.ok()) << kv.status();
    kv_ = *std::move(kv);
    set_ = std::make_unique<AdapterSet>(4 << 20, model_, *kv_, Cpu());
  }
  void WriteLora(const json& config, const std::vector<TestTensor>& tensors) {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    testing::WriteText(folder_ + "/adapter_config.json", config.dump());
    testing::WriteText(folder_ + "/adapter_model.safetensors", testing::SafetensorsText(tensors));
  }
  void WritePrefix(const std::vector<TestTensor>& tensors) {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    testing::WriteText(folder_ + "/prefix.safetensors", testing::SafetensorsText(tensors));
  }
  // It is not loaded, the message has all `words`, and nothing stays taken.
  void Refused(const std::vector<std::string>& words) {
    const absl::Status status = set_->Load("x", folder_).status();
    EXPECT_FALSE(status.ok());
    for (const std::string& word : words) {
      EXPECT_NE(status.message().find(word), absl::string_view::npos) << word << ": " << status;
    }
    EXPECT_EQ(set_->used_bytes(), 0u);
    EXPECT_TRUE(set_->List().empty());
  }

  const testing::TempFolder temp_;
  const ModelFile model_;
  const std::string folder_;
  std::unique_ptr<KvCache> kv_;
  std::unique_ptr<AdapterSet> set_;
  const LoraFolder lora_{.targets = {"query_key_value", "dense"}};
  const PrefixFolder prefix_{.slots = 21};
};

TEST_F(AdapterFilesTest, FieldsThatCannotBeRunAreNamed) {
  const std::vector<TestTensor> tensors = lora_.Tensors(model_);
  const std::pair<const char*, json> fields[] = {
      {"peft_type", "IA3"},
      {"r", 0},
      {"r", -3},
      {"r", 1.5},
      {"r", 1 << 20},
      {"r", nullptr},
      {"lora_alpha", "many"},
      {"use_rslora", 3},
      {"bias", "all"},
      {"modules_to_save", {"output_layer"}},
      {"use_dora", true},
      {"rank_pattern", {{"dense", 2}}},
      {"layers_to_transform", {0}},
      {"target_modules", nullptr},
      {"target_modules", {"query_key_value", 5}},
      {"target_modules", {"query_key_value", "gate_proj"}}};
  for (const auto& [field, value] : fields) {
    json config = lora_.Config();
    config[field] = value;
    WriteLora(config, tensors);
    SCOPED_TRACE(config.dump());
    Refused({"adapter_config.json", field});
  }
  WriteLora(lora_.Config(), tensors);
  EXPECT_TRUE(set_->Load("x", folder_).ok());
}

TEST_F(AdapterFilesTest, ScaleFollowsTheConfig) {
  json config = lora_.Config();
  const auto scale = [&] {
    WriteLora(config, lora_.Tensors(model_));
    const auto file = LoraFile::Open(folder_, model_);
    EXPECT_TRUE(file.ok()) << file.status();
    std::vector<float> memory(file->floats());
    std::vector<std::vector<LoraWeights>> weights(model_.tensors.size());
    EXPECT_TRUE(file->Read(memory.data(), &weights).ok());
    return weights[model_.Find("transformer.encoder.layers.0.self_attention.dense.weight")][0]
        .scale;
  };
  EXPECT_EQ(scale(), 2.0f);  // 8 / 4
  config["use_rslora"] = true;
  EXPECT_EQ(scale(), 4.0f);         // 8 / sqrt(4)
  config["fan_in_fan_out"] = true;  // how the base stored its weights
  EXPECT_EQ(scale(), 4.0f);
}

TEST_F(AdapterFilesTest, LoraTensorsThatDoNotFitAreNamed) {
  const auto refused = [&](const std::function<void(std::vector<TestTensor>&)>& change,
                           const std::vector<std::string>& words) {
    std::vector<TestTensor> tensors = lora_.Tensors(model_);
    change(tensors);
    WriteLora(lora_.Config(), tensors);
    Refused(words);
  };
  const std::string name = lora_.Tensors(model_)[0].name;
  refused([](auto& tensors) { tensors.erase(tensors.begin()); }, {"adapter_model", "has no A"});
  refused([](auto& tensors) { tensors.erase(tensors.begin(), tensors.begin() + 2); },
          {"target_modules", "nothing for", "dense"});
  refused([](auto& tensors) { tensors.clear(); }, {"adapter_model.safetensors"});
  refused(
      [](auto& tensors) {
        tensors[0].shape = {tensors[0].shape[1], tensors[0].shape[0]};
      },
      {name, "must be [4"});
  refused([](auto& tensors) { tensors[0].name = "base_model.model.nowhere.lora_A.weight"; },
          {"nowhere"});
  refused([](auto& tensors) { tensors[0].name = "lm_head.weight"; }, {"lm_head.weight"});
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    refused(
        [&](auto& tensors) {
          std::vector<float> values = testing::FloatsOf(tensors[0]);
          values[7] = bad;
          tensors[0] = testing::F32Tensor(tensors[0].name, tensors[0].shape, values);
        },
        {name, "element 7", "finite"});
  }
  // The config says another rank than the file has.
  json config = lora_.Config();
  config["r"] = 5;
  WriteLora(config, lora_.Tensors(model_));
  Refused({name, "r 5"});
  // A part of a matrix beside the whole.
  std::vector<TestTensor> twice = lora_.Tensors(model_);
  const LoraFolder part{.targets = {"k_proj"}};
  for (const TestTensor& tensor : part.Tensors(model_)) twice.push_back(tensor);
  WriteLora(lora_.Config(), twice);
  Refused({"both add to row 128", "query_key_value"});
}

TEST_F(AdapterFilesTest, FilesThatAreCutOffAreRefused) {
  WriteLora(lora_.Config(), lora_.Tensors(model_));
  for (const char* file : {"/adapter_model.safetensors", "/adapter_config.json"}) {
    const std::string whole = testing::ReadText(folder_ + file);
    for (const size_t keep : {size_t{0}, size_t{7}, size_t{40}, whole.size() - 1}) {
      testing::WriteText(folder_ + file, whole.substr(0, keep));
      Refused({file + 1});
    }
    testing::WriteText(folder_ + file, whole);
  }
  std::filesystem::remove(folder_ + "/adapter_model.safetensors");
  Refused({"adapter_model.safetensors"});
  WritePrefix(prefix_.Tensors(model_.spec.kv));
  const std::string whole = testing::ReadText(folder_ + "/prefix.safetensors");
  testing::WriteText(folder_ + "/prefix.safetensors", whole.substr(0, whole.size() - 4));
  Refused({"prefix.safetensors", "truncated"});
}

// q, k and v apart, as PEFT names them or as SwissArmyTransformer numbers them, are the same.
TEST_F(AdapterFilesTest, PartsOfAFusedMatrixGoToTheirRows) {
  const LoraFolder parts{.targets = {"q_proj", "k_proj", "v_proj"}};
  std::vector<TestTensor> tensors = parts.Tensors(model_);
  const auto read = [&] {
    WriteLora(parts.Config(), tensors);
    const auto file = LoraFile::Open(folder_, model_);
    EXPECT_TRUE(file.ok()) << file.status();
    std::vector<float> memory(file->floats());
    std::vector<std::vector<LoraWeights>> weights(model_.tensors.size());
    EXPECT_TRUE(file->Read(memory.data(), &weights).ok());
    const int tensor =
        model_.Find("transformer.encoder.layers.1.self_attention.query_key_value.weight");
    std::vector<std::vector<float>> delta(192, std::vector<float>(128));
    for (const LoraWeights& w : weights[tensor]) {
      for (int64_t i = 0; i < w.rows; ++i) {
        for (int64_t j = 0; j < w.rank; ++j) {
          for (int64_t k = 0; k < 128; ++k) {
            delta[w.row_begin + i][k] += w.b[j * w.rows + i] * w.a[j * 128 + k];
          }
        }
      }
    }
    return delta;
  };
  const auto delta = read();
  const TestTensor& b = testing::Named(
      tensors, "base_model.model.transformer.encoder.layers.1.self_attention.v_proj.lora_B.weight");
  const TestTensor& a = testing::Named(
      tensors, "base_model.model.transformer.encoder.layers.1.self_attention.v_proj.lora_A.weight");
  double expected = 0;  // row 3 of v, column 5
  for (int j = 0; j < 4; ++j) expected += b.At(3 * 4 + j) * a.At(j * 128 + 5);
  EXPECT_NEAR(delta[160 + 3][5], expected, 1e-6);

  for (TestTensor& tensor : tensors) {
    std::string& name = tensor.name;
    const std::string layer = name.substr(name.find("layers.") + 7, 1);
    const int index = name.find("q_proj") != name.npos   ? 0
                      : name.find("k_proj") != name.npos ? 1
                                                         : 2;
    const char* side = name.find("lora_A") != name.npos ? "A" : "B";
    name = "transformer.layers." + layer + ".attention.query_key_value.matrix_" + side + "." +
           std::to_string(index);
  }
  EXPECT_EQ(read(), delta);
}

// GLM-130B and ChatGLM-6B alternate rows of q, k and v: one product with zeros between.
TEST_F(AdapterFilesTest, PartsWhoseRowsAlternateAreStacked) {
  ModelFile model = model_;
  for (ModuleAlias& alias : model.spec.aliases) {
    const int64_t part = alias.module.ends_with("q_proj") ? 0 : 1;
    if (alias.module.find("_proj") != std::string::npos) alias.rows = {16 * part, 16, 48, 4};
  }
  const LoraFolder parts{.targets = {"q_proj"}};
  const std::vector<TestTensor> tensors = parts.Tensors(model);
  WriteLora(parts.Config(), tensors);
  const auto file = LoraFile::Open(folder_, model);
  ASSERT_TRUE(file.ok()) << file.status();
  std::vector<float> memory(file->floats(), 9.0f);
  std::vector<std::vector<LoraWeights>> weights(model.tensors.size());
  ASSERT_TRUE(file->Read(memory.data(), &weights).ok());
  const int tensor =
      model.Find("transformer.encoder.layers.0.self_attention.query_key_value.weight");
  ASSERT_EQ(weights[tensor].size(), 1u);
  const LoraWeights& w = weights[tensor][0];
  for (int64_t i = 0; i < w.rows; ++i) {
    const bool own = i % 48 < 16;
    const int64_t source = i / 48 * 16 + i % 48;
    for (int64_t j = 0; j < 4; ++j) {
      EXPECT_EQ(w.b[j * w.rows + i], own ? tensors[1].At(source * 4 + j) : 0.0) << i;
    }
  }
}

TEST_F(AdapterFilesTest, PrefixesThatDoNotFitAreNamed) {
  const auto refused = [&](const PrefixFolder& good,
                           const std::function<void(std::vector<TestTensor>&)>& change,
                           const std::vector<std::string>& words) {
    std::vector<TestTensor> tensors = good.Tensors(model_.spec.kv);
    change(tensors);
    WritePrefix(tensors);
    Refused(words);
  };
  const PrefixFolder projected{.slots = 3, .inner = 10};
  refused(prefix_,
          [](auto& t) {
            t[0].shape = {t[0].shape[0] * 2, t[0].shape[1] / 2};
          },
          {"embedding.weight", "3 layers", "[42, 192]"});
  refused(prefix_, [](auto& t) { t[0].name = "something.else"; }, {"neither"});
  refused(projected, [](auto& t) { t.pop_back(); }, {"trans.2.weight"});
  refused(projected, [](auto& t) { t[2].shape = {24, 10}; }, {"trans.0"});
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), 1e6f}) {  // no f16 holds it
    refused(prefix_,
            [&](auto& t) {
              std::vector<float> values = testing::FloatsOf(t[0]);
              values[values.size() - 1] = bad;
              t[0] = testing::F32Tensor(t[0].name, t[0].shape, values);
            },
            {"layer 2"});
  }
  WritePrefix(prefix_.Tensors(model_.spec.kv));
  testing::WriteText(folder_ + "/config.json", R"({"pre_seq_len": 20})");
  Refused({"config.json", "pre_seq_len is 20", "21"});
  testing::WriteText(folder_ + "/config.json", R"({"pre_seq_len": 21})");
  testing::WriteText(folder_ + "/other.safetensors",
                     testing::SafetensorsText(projected.Tensors(model_.spec.kv)));
  Refused({"other.safetensors and prefix.safetensors", "leave one"});
}

}  // namespace
}  // namespace qianyi
