// `qianyi convert` on checkpoints as others publish them, and what the result generates.
#include <algorithm>
#include <filesystem>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "gtest/gtest.h"
#include "tests/cli/qianyi.h"
#include "tests/support/safetensors_text.h"

namespace qianyi::testing {
namespace {

using nlohmann::json;

std::string Ids(const json& list) { return absl::StrJoin(list.get<std::vector<int>>(), ","); }

// The fixture's weights, rounded by `round`, as a checkpoint of tensors that `make` makes.
template <typename Make>
std::vector<TestTensor> Weights(const std::string& fixture, float (*round)(float), Make make) {
  std::vector<TestTensor> tensors;
  for (const TestTensor& from : ReadSafetensors(Fixture(fixture) + "/weights.safetensors")) {
    std::vector<float> values = FloatsOf(from);
    std::transform(values.begin(), values.end(), values.begin(), round);
    tensors.push_back(make(from.name, from.shape, values));
  }
  return tensors;
}

// A folder as a hub has it: one file, or two shards and an index.
void WriteCheckpoint(const std::string& folder, const std::string& fixture,
                     const std::vector<TestTensor>& tensors, bool shards) {
  std::filesystem::create_directory(folder);
  std::filesystem::copy(Fixture(fixture) + "/config.json", folder);
  if (!shards) {
    WriteText(folder + "/model.safetensors", SafetensorsText(tensors, R"({"format":"pt"})"));
    return;
  }
  std::vector<TestTensor> halves[2];
  json map;
  for (size_t i = 0; i < tensors.size(); ++i) {
    halves[i % 2].push_back(tensors[i]);
    map[tensors[i].name] = absl::StrCat("model-0000", i % 2 + 1, "-of-00002.safetensors");
  }
  for (int i : {0, 1}) {
    WriteText(absl::StrCat(folder, "/model-0000", i + 1, "-of-00002.safetensors"),
              SafetensorsText(halves[i]));
  }
  WriteText(folder + "/model.safetensors.index.json",
            json{{"metadata", {{"total_size", 1}}}, {"weight_map", map}}.dump());
}

float Same(float value) { return value; }

std::string Convert(const std::string& from, const std::string& to, const Arguments& format) {
  EXPECT_EQ(Output(Arguments{"convert", from, to} + format), "");
  return to;
}

class ConvertFixture : public ::testing::TestWithParam<const char*> {
 protected:
  TempFolder temp_;
};

INSTANTIATE_TEST_SUITE_P(Families, ConvertFixture, ::testing::Values("glm-blocklm", "chatglm2"),
                         [](const auto& of) {
                           return std::string(of.index == 0 ? "blocklm" : "chatglm2");
                         });

TEST_P(ConvertFixture, InF32GeneratesWhatTheOriginalDid) {
  const std::string model = Convert(Fixture(GetParam()), temp_ / "f32", {"--dtype", "f32"});
  const json cases = json::parse(ReadText(Fixture(GetParam()) + "/cases.json"));
  int compared = 0;
  for (const json& fields : cases["cases"]) {
    const bool context = fields.contains("context_ids");
    const std::string prompt = Ids(fields[context ? "context_ids" : "prompt_ids"]);
    const Arguments base = {"generate", "--model",       model, "--prompt-ids", prompt,
                            "--quiet",  "--temperature", "0",   "--ignore-end"};
    if (fields.contains("greedy_tokens")) {
      const json& expected = fields["greedy_tokens"];
      EXPECT_EQ(Output(base + Arguments{"--max-tokens", absl::StrCat(expected.size())}),
                Ids(expected) + "\n")
          << fields["name"];
      ++compared;
    }
    if (fields.contains("blanks")) {
      Arguments ends = {"--max-tokens", absl::StrCat(fields["out_seq_length"].get<int>())};
      for (const json& end : fields["end_token_ids"]) {
        ends = ends + Arguments{"--stop-id", absl::StrCat(end.get<int>())};
      }
      std::vector<std::string> blanks;
      for (const json& blank : fields["blanks"]) blanks.push_back(Ids(blank["tokens"]));
      EXPECT_EQ(Output(base + ends), absl::StrJoin(blanks, ";") + "\n");
      ++compared;
    }
  }
  EXPECT_GE(compared, 4);
}

TEST_P(ConvertFixture, TakesEveryFormat) {
  const Arguments formats[] = {{"--dtype", "f32"},
                               {"--dtype", "f16"},
                               {"--dtype", "bf16"},
                               {"--dtype", "int8"},
                               {"--dtype", "int4", "--group", "32"},
                               {"--dtype", "int4", "--group", "64"},
                               {"--dtype", "int4", "--group", "128"},
                               {"--dtype", "int4", "--group", "0"},
                               {"--dtype", "int4"}};
  std::vector<std::string> outputs;
  for (const Arguments& format : formats) {
    const std::string model =
        Convert(Fixture(GetParam()), temp_ / absl::StrJoin(format, ""), format);
    EXPECT_EQ(NamesIn(model), (std::vector<std::string>{"config.json", "model.safetensors"}));
    const std::string head = ReadText(model + "/model.safetensors");
    EXPECT_TRUE(absl::StrContains(head.substr(0, HeaderBytes(head)),
                                  absl::StrCat("\\\"dtype\\\":\\\"", format[1], "\\\"")));
    outputs.push_back(Output({"generate", "--model", model, "--prompt-ids", "5,6,7,8,9,10,11",
                              "--max-tokens", "12", "--temperature", "0", "--ignore-end"}));
    const std::vector<std::string> ids = absl::StrSplit(outputs.back(), ',');
    EXPECT_EQ(ids.size(), 12u) << outputs.back();
    EXPECT_EQ(
        Output({"generate", "--model", model, "--prompt-ids", "5,6,7,8,9,10,11", "--max-tokens",
                "12", "--temperature", "0", "--ignore-end", "--threads", "1"}),
        outputs.back());
  }
  EXPECT_EQ(outputs[0], outputs[1]) << "half precision changed a token";
  EXPECT_EQ(outputs.back(), outputs[4]) << "groups of 32 are the default";
}

TEST_P(ConvertFixture, ReadsHalvesAsTheFloatsTheyAre) {
  using Make = TestTensor (*)(std::string, std::vector<int64_t>, const std::vector<float>&);
  const std::tuple<const char*, Make, float (*)(float)> kinds[] = {
      {"F16", F16Tensor, RoundToF16}, {"BF16", BF16Tensor, RoundToBF16}};
  for (const auto& [dtype, make, round] : kinds) {
    const std::string half = temp_ / absl::StrCat(dtype, "-half");
    const std::string full = temp_ / absl::StrCat(dtype, "-full");
    WriteCheckpoint(half, GetParam(), Weights(GetParam(), Same, make), false);
    WriteCheckpoint(full, GetParam(), Weights(GetParam(), round, F32Tensor), false);
    for (const char* to : {"f32", "int4"}) {
      const std::vector<TestTensor> from_half =
          ReadSafetensors(Convert(half, half + to, {"--dtype", to}) + "/model.safetensors");
      const std::vector<TestTensor> from_full =
          ReadSafetensors(Convert(full, full + to, {"--dtype", to}) + "/model.safetensors");
      ASSERT_EQ(from_half.size(), from_full.size());
      for (size_t i = 0; i < from_half.size(); ++i) {
        if (absl::StartsWith(from_half[i].name, "__pad")) continue;
        EXPECT_EQ(from_half[i].bytes, from_full[i].bytes) << dtype << " " << from_half[i].name;
      }
    }
  }
}

TEST_P(ConvertFixture, ReadsShardsAsOneFile) {
  const std::vector<TestTensor> tensors = Weights(GetParam(), Same, BF16Tensor);
  WriteCheckpoint(temp_ / "one", GetParam(), tensors, false);
  WriteCheckpoint(temp_ / "two", GetParam(), tensors, true);
  Convert(temp_ / "one", temp_ / "from-one", {"--dtype", "int8"});
  Convert(temp_ / "two", temp_ / "from-two", {"--dtype", "int8", "--threads", "1"});
  EXPECT_EQ(ReadText(temp_ / "from-one/model.safetensors"),
            ReadText(temp_ / "from-two/model.safetensors"));
}

TEST(Convert, LeavesOutWhatTheModelDoesNotUseAndSaysSo) {
  TempFolder temp;
  std::vector<TestTensor> tensors = Weights("chatglm2", Same, F32Tensor);
  tensors.push_back(F32Tensor("transformer.not_in_use", {2}, {1, 2}));
  WriteCheckpoint(temp / "source", "chatglm2", tensors, false);
  WriteText(temp / "source/tokenizer_config.json", "{}");
  WriteText(temp / "source/notes.txt", "not for the model");
  const ProcessResult result = Qianyi({"convert", temp / "source", temp / "model/"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_TRUE(absl::StrContains(result.err, "transformer.not_in_use")) << result.err;
  EXPECT_TRUE(absl::StrContains(result.err, "100%")) << result.err;
  EXPECT_EQ(NamesIn(temp / "model"), (std::vector<std::string>{"config.json", "model.safetensors",
                                                               "tokenizer_config.json"}));
  // An empty folder may stand where the model is to go.
  std::filesystem::create_directory(temp / "empty");
  Convert(temp / "source", temp / "empty", {"--dtype", "f16"});
}

// Far more weights than memory in use: a sparse file stands for a large checkpoint.
TEST(Convert, NeedsLittleMemory) {
  TempFolder temp;
  const json config = {{"model_type", "chatglm"},  {"num_layers", 1},
                       {"hidden_size", 512},       {"ffn_hidden_size", 64},
                       {"num_attention_heads", 4}, {"multi_query_group_num", 2},
                       {"kv_channels", 16},        {"padded_vocab_size", 200 << 10},
                       {"seq_length", 64},         {"add_qkv_bias", false}};
  const std::string source = temp / "source";
  std::filesystem::create_directory(source);
  WriteText(source + "/config.json", config.dump());
  WriteZeroSafetensors(source + "/model.safetensors", "BF16", 2, ChatGlm2Tensors(config));
  ASSERT_GT(std::filesystem::file_size(source + "/model.safetensors"), 400u << 20);

  const ProcessResult result =
      Qianyi({"convert", source, temp / "model", "--dtype", "int4", "--threads", "2"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(Output({"generate", "--model", temp / "model", "--prompt-ids", "9", "--max-tokens", "2",
                    "--temperature", "0"}),
            "0,0\n");
  if (!kSanitized) {
    EXPECT_LT(result.peak_resident_bytes, 64u << 20);
  }
}

}  // namespace
}  // namespace qianyi::testing
