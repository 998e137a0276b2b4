// The same weights in every form in which checkpoints are published become the same model.
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/cli/qianyi.h"
#include "tests/support/safetensors_text.h"

namespace qianyi::testing {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// A form of the fixture with its config.json, as `convert` wants them.
std::string Source(const TempFolder& temp, const std::string& form) {
  const std::string folder = temp / form;
  CopyFolder(Fixture("torch-checkpoints/" + form), folder);
  fs::copy(Fixture("torch-checkpoints/config.json"), folder);
  return folder;
}

// All bytes of weights, without what says where they came from.
std::string Weights(const std::string& model) {
  std::string bytes;
  for (const TestTensor& tensor : ReadSafetensors(model + "/model.safetensors")) {
    if (absl::StartsWith(tensor.name, "__pad")) continue;
    absl::StrAppend(&bytes, tensor.name, ":", tensor.bytes, ";");
  }
  return bytes;
}

class CheckpointForms : public ::testing::TestWithParam<const char*> {};

INSTANTIATE_TEST_SUITE_P(All, CheckpointForms,
                         ::testing::Values("bin", "bin-f16", "bin-bf16", "legacy", "shards",
                                           "views", "ranks", "sat"),
                         [](const auto& of) {
                           std::string name = of.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST_P(CheckpointForms, ConvertToTheSameModel) {
  TempFolder temp;
  const std::string expected = Source(temp, "safetensors");
  const std::string source = Source(temp, GetParam());
  for (const char* dtype : {"f32", "int8", "int4"}) {
    Output({"convert", expected, temp / "expected", "--dtype", dtype});
    Output({"convert", source, temp / "model", "--dtype", dtype, "--threads", "2"});
    EXPECT_TRUE(Weights(temp / "model") == Weights(temp / "expected")) << dtype;
    const Arguments generate = {"generate", "--prompt-ids",  "5,6,42,7", "--max-tokens",
                                "6",        "--temperature", "0",        "--ignore-end",
                                "--model"};
    EXPECT_EQ(Output(generate + Arguments{temp / "model"}),
              Output(generate + Arguments{temp / "expected"}));
    fs::remove_all(temp / "model");
    fs::remove_all(temp / "expected");
  }
}

TEST(CheckpointFiles, NothingInThemIsRun) {
  TempFolder temp;
  fs::create_directory(temp / "source");
  fs::copy(Fixture("torch-checkpoints/config.json"), temp / "source");
  int files = 0;
  for (const std::string& name : NamesIn(Fixture("torch-checkpoints/hostile"))) {
    const std::string file = temp / "source/model.pt";
    WriteText(file, ReadText(Fixture("torch-checkpoints/hostile/" + name)));
    const ProcessResult result = Qianyi({"convert", temp / "source", temp / "model"});
    EXPECT_TRUE(Fails(result, 1, {file, "opcode "})) << name;
    EXPECT_FALSE(fs::exists("HACKED")) << name;
    ++files;
  }
  EXPECT_EQ(files, 15);
  EXPECT_EQ(temp.Names(), (std::vector<std::string>{"source"}));
}

TEST(CheckpointFiles, RanksMustBeCompleteAndFit) {
  TempFolder temp;
  const std::string source = Source(temp, "ranks");
  const std::string rank = source + "/49300/mp_rank_0";
  const Arguments convert = {"convert", source, temp / "model"};
  // The name of a folder elsewhere, and of none.
  for (const char* latest : {"../ranks/49300", "7", ""}) {
    WriteText(source + "/latest", latest);
    EXPECT_TRUE(Fails(Qianyi(convert), 1, {source + "/latest", "plain name"}));
  }
  WriteText(source + "/latest", "49300\n");
  fs::rename(rank + "0_model_states.pt", rank + "2_model_states.pt");
  EXPECT_TRUE(Fails(Qianyi(convert), 1, {"rank 0", "is missing"}));
  fs::copy(rank + "1_model_states.pt", rank + "0_model_states.pt");
  EXPECT_TRUE(Fails(Qianyi(convert), 1, {"has 144 rows over 3 ranks", "[96]"}));
  fs::remove(rank + "2_model_states.pt");
  fs::remove(rank + "1_model_states.pt");
  EXPECT_TRUE(Fails(Qianyi(convert), 1, {"mp_rank_00_model_states.pt", "[48]", "[96]"}));
}

// SwissArmyTransformer has the rows of queries, keys and values in another order under one name.
TEST(CheckpointFiles, ChatGlm6bInTheNamesOfItsTraining) {
  TempFolder temp;
  for (const char* form : {"weights", "weights_sat"}) {
    const std::string source = temp / form;
    fs::create_directory(source);
    fs::copy(Fixture("chatglm-6b/config.json"), source);
    fs::copy(Fixture(absl::StrCat("chatglm-6b/", form, ".safetensors")),
             source + "/model.safetensors");
    Output({"convert", source, source + "-model", "--dtype", "f32"});
  }
  EXPECT_TRUE(Weights(temp / "weights_sat-model") == Weights(temp / "weights-model"));
}

// A GGUF file says itself what it is: no config.json and no tokenizer stand beside it.
TEST(GgufCheckpoints, ConvertToTheSameModel) {
  TempFolder temp;
  Output({"convert", Fixture("gguf/chatglm/safetensors"), temp / "expected", "--dtype", "f32"});
  const std::string first = Fixture("gguf/chatglm/split/tiny-00001-of-00002.gguf");
  for (const std::string& source : {Fixture("gguf/chatglm/one"), Fixture("gguf/chatglm/split"),
                                    Fixture("gguf/chatglm/one/tiny.gguf"), first}) {
    Output({"convert", source, temp / "model", "--dtype", "f32"});
    EXPECT_TRUE(Weights(temp / "model") == Weights(temp / "expected")) << source;
    EXPECT_EQ(NamesIn(temp / "model"),
              (std::vector<std::string>{"config.json", "model.safetensors", "tokenizer.json"}));
    const ProcessResult said = Qianyi({"generate", "--model", temp / "model", "--prompt", "层",
                                       "--max-tokens", "3", "--temperature", "0"});
    EXPECT_EQ(said.exit_code, 0) << said.err;
    fs::remove_all(temp / "model");
  }
  // A part of it is no model.
  CopyFolder(Fixture("gguf/chatglm/split"), temp / "part");
  const std::string second = temp / "part/tiny-00002-of-00002.gguf";
  EXPECT_TRUE(Fails(Qianyi({"convert", second, temp / "model"}), 1, {second, "name the first"}));
  fs::remove(second);
  EXPECT_TRUE(Fails(Qianyi({"convert", temp / "part", temp / "model"}), 1, {second}));
}

// The names, and the stacked experts, of transformers' models in GGUF.
TEST(GgufCheckpoints, OfTransformersModelsConvertToTheSameModel) {
  for (const auto& [fixture, form] :
       {std::pair{"glm4", "gguf/glm4"}, std::pair{"glm4-moe-groups", "gguf/glm4moe"}}) {
    TempFolder temp;
    Output({"convert", Fixture(fixture), temp / "expected", "--dtype", "f32"});
    Output({"convert", Fixture(form), temp / "model", "--dtype", "f32"});
    EXPECT_TRUE(Weights(temp / "model") == Weights(temp / "expected")) << fixture;
    const json got = json::parse(ReadText(temp / "model/config.json"));
    const json want = json::parse(ReadText(Fixture(fixture) + "/config.json"));
    for (const auto& [field, value] : got.items()) {
      if (field == "eos_token_id" || !want.contains(field)) continue;  // there is no vocabulary
      EXPECT_EQ(value, want[field]) << fixture << " " << field;
    }
  }
}

// Integers of ranks that were cut by rows are kept; those cut by columns have scales of their own,
// equal ones here, and are rounded anew.
TEST(CheckpointFiles, QuantizedRanksOfGlm130b) {
  TempFolder temp;
  for (const char* name : {"whole", "ranks"}) fs::create_directory(temp / name);
  const std::string config = Fixture("glm-130b/config.json");
  fs::copy(config, temp / "whole");
  fs::copy(Fixture("glm-130b/weights_int4.safetensors"), temp / "whole/model.safetensors");
  CopyFolder(Fixture("torch-checkpoints/ranks-130b-int4"), temp / "ranks/parts");
  fs::copy(config, temp / "ranks/parts");
  Output({"convert", temp / "whole", temp / "expected", "--dtype", "f32"});
  Output({"convert", temp / "ranks/parts", temp / "model", "--dtype", "f32"});
  EXPECT_TRUE(Weights(temp / "model") == Weights(temp / "expected"));
  Output({"convert", temp / "ranks/parts", temp / "kept", "--dtype", "int4"});
  const std::string header = ReadText(temp / "kept/model.safetensors");
  EXPECT_NE(header.find("\\\"original_dtype\\\":\\\"I4\\\""), header.npos);
}

// Models that llama.cpp quantized, with its logits of the same numbers in f32.
TEST(GgufCheckpoints, GiveTheLogitsOfLlamaCpp) {
  for (const char* name : {"gguf/q4_0", "gguf/q8_0", "gguf/q4_k_m"}) {
    const std::string out = Output({"verify", Fixture(name)});
    EXPECT_NE(out.find("prompt.logits"), std::string::npos) << name << out;
    EXPECT_EQ(out.find("FAIL"), std::string::npos) << name << out;
  }
}

}  // namespace
}  // namespace qianyi::testing
