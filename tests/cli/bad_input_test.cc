// Whatever a user gets wrong: one sentence that says what and how to mend it, an exit status
// that is not 0, nothing on standard output and nothing half-written under its final name.
#include <sys/resource.h>

#include <csignal>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/cli/qianyi.h"
#include "tests/support/safetensors_text.h"

namespace qianyi::testing {
namespace {

// A small model, made once for all tests of the process.
class BadInput : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    made_ = new TempFolder();
    Output({"synth", "--config", WriteConfig(*made_, Family::kChatGlm2), *made_ / "model"});
  }
  static void TearDownTestSuite() {
    delete made_;
    made_ = nullptr;
  }

  static Arguments Generate(const std::string& folder, const Arguments& more = {}) {
    return Arguments{"generate", "--model",      folder, "--prompt-ids",
                     "5,6,7",    "--max-tokens", "2",    "--quiet"} +
           more;
  }
  std::string Copy() {
    const std::string folder = temp_ / absl::StrCat("copy", copies_++);
    CopyFolder(*made_ / "model", folder);
    return folder;
  }
  static std::string WeightsOf(const std::string& folder) { return folder + "/model.safetensors"; }

  static TempFolder* made_;
  TempFolder temp_;
  int copies_ = 0;
};

TempFolder* BadInput::made_ = nullptr;

TEST_F(BadInput, TheModelItselfIsFine) { EXPECT_NE(Output(Generate(*made_ / "model")), ""); }

TEST_F(BadInput, TruncatedWeights) {
  const std::string folder = Copy();
  const std::string whole = ReadText(WeightsOf(folder));
  for (const size_t bytes :
       {size_t{0}, size_t{5}, size_t{100}, whole.size() / 2, whole.size() - 1}) {
    WriteText(WeightsOf(folder), std::string_view(whole).substr(0, bytes));
    EXPECT_TRUE(Fails(Qianyi(Generate(folder)), 1, {"model.safetensors"})) << bytes << " bytes";
  }
}

TEST_F(BadInput, FlippedBitsInHeaderAndWeights) {
  const std::string folder = Copy();
  const std::string whole = ReadText(WeightsOf(folder));
  const size_t header = HeaderBytes(whole);
  for (const size_t at : {size_t{1}, size_t{6}, size_t{9}, size_t{40}, header / 2}) {
    std::string damaged = whole;
    damaged[at] = static_cast<char>(damaged[at] ^ 4);
    WriteText(WeightsOf(folder), damaged);
    EXPECT_NE(Qianyi(Generate(folder)).exit_code, kSanitizerExitCode) << "at " << at;
  }
  // In the weights it is the checksum that tells, wherever the bit is.
  for (const size_t tenth : {3, 5, 7}) {
    std::string damaged = whole;
    const size_t at = header + (whole.size() - header) / 10 * tenth;
    damaged[at] = static_cast<char>(damaged[at] ^ 16);
    WriteText(WeightsOf(folder), damaged);
    const ProcessResult result = Qianyi(Generate(folder));
    // A flip between two blocks hits padding, which holds nothing; these do not.
    EXPECT_TRUE(Fails(result, 1, {"checksum", "model.safetensors"})) << tenth << " tenths";
  }
}

TEST_F(BadInput, LyingHeaders) {
  const char* const kHeaders[] = {
      "",
      "{",
      "[]",
      "{\"a\":1}",
      R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[0,8]}})",
      R"({"a":{"dtype":"F32","shape":[-4],"data_offsets":[0,16]}})",
      R"({"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,16]}})",
      R"({"a":{"dtype":"F99","shape":[4],"data_offsets":[0,16]}})",
      R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[16,0]}})",
      R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"b":{"dtype":"F32","shape":[4],"data_offsets":[8,24]}})"};
  for (const char* header : kHeaders) {
    const std::string folder = temp_ / absl::StrCat("lie", copies_++);
    CopyFolder(*made_ / "model", folder);
    WriteText(WeightsOf(folder), WithHeader(header, 16));
    EXPECT_TRUE(Fails(Qianyi(Generate(folder)), 1, {"model.safetensors"})) << header;
    const std::string to = temp_ / "converted";
    EXPECT_TRUE(Fails(Qianyi({"convert", folder, to}), 1, {"model.safetensors"})) << header;
  }
}

TEST_F(BadInput, AConfigThatDisagreesWithTheTensors) {
  const std::string folder = Copy();
  const std::string config = ReadText(folder + "/config.json");
  nlohmann::json json = nlohmann::json::parse(config);
  json["hidden_size"] = json["hidden_size"].get<int>() + 64;
  WriteText(folder + "/config.json", json.dump());
  EXPECT_TRUE(Fails(Qianyi(Generate(folder)), 1, {folder}));
  json = nlohmann::json::parse(config);
  json["num_layers"] = json["num_layers"].get<int>() + 1;
  WriteText(folder + "/config.json", json.dump());
  EXPECT_TRUE(Fails(Qianyi(Generate(folder)), 1, {folder}));
}

TEST_F(BadInput, ConfigsThatMakeNoSense) {
  const nlohmann::json good = nlohmann::json::parse(SmallConfig(Family::kChatGlm2));
  const std::pair<const char*, nlohmann::json> kFields[] = {{"hidden_size", -1},
                                                            {"hidden_size", 0},
                                                            {"hidden_size", "384"},
                                                            {"num_layers", 1e9},
                                                            {"num_layers", -7},
                                                            {"num_attention_heads", 7.5},
                                                            {"padded_vocab_size", 1ull << 63},
                                                            {"kv_channels", 3},
                                                            {"multi_query_group_num", 0},
                                                            {"layernorm_epsilon", "x"},
                                                            {"eos_token_id", -3},
                                                            {"seq_length", nullptr}};
  for (const auto& [field, value] : kFields) {
    nlohmann::json config = good;
    config[field] = value;
    const std::string path = temp_ / "config.json";
    WriteText(path, config.dump());
    const ProcessResult result = Qianyi({"synth", "--config", path, temp_ / "out"});
    EXPECT_TRUE(Fails(result, 1, {field})) << field << " = " << value;
  }
  WriteText(temp_ / "deep.json", std::string(200000, '['));
  EXPECT_TRUE(Fails(Qianyi({"synth", "--config", temp_ / "deep.json", temp_ / "out"}), 1, {}));
  EXPECT_TRUE(Fails(Qianyi({"synth", "--config", "glm-5000b", temp_ / "out"}), 1, {"glm-4-9b"}));
  for (const std::string& name : temp_.Names()) EXPECT_EQ(name.find("out"), std::string::npos);
}

// A disk with no more room, as a limit on the size of files: the kernel refuses the write alike.
TEST_F(BadInput, AFullDisk) {
  ProcessOptions full;
  full.prepare = [] {
    const rlimit limit = {1 << 20, 1 << 20};
    setrlimit(RLIMIT_FSIZE, &limit);
    std::signal(SIGXFSZ, SIG_IGN);
  };
  const std::string config = WriteConfig(temp_, Family::kChatGlm2);
  EXPECT_TRUE(Fails(Qianyi({"synth", "--config", config, temp_ / "out"}, full), 1, {"out"}));
  // A checkpoint to convert: the fixture's weights under their published names.
  EXPECT_TRUE(Fails(Qianyi({"convert", Fixture("chatglm2"), temp_ / "out", "--dtype", "f32"}, full),
                    1, {"out"}));
  EXPECT_EQ(temp_.Names(), (std::vector<std::string>{"small.json"}));
}

TEST_F(BadInput, ADestinationThatExistsIsLeftAlone) {
  WriteText(temp_ / "taken", "mine");
  EXPECT_TRUE(Fails(Qianyi({"convert", Fixture("chatglm2"), temp_ / "taken"}), 1, {"taken"}));
  EXPECT_EQ(ReadText(temp_ / "taken"), "mine");
}

TEST_F(BadInput, PromptsThatCannotBe) {
  const std::string model = *made_ / "model";
  auto with = [&](const Arguments& more) {
    return Qianyi(Arguments{"generate", "--model", model, "--quiet"} + more);
  };
  EXPECT_TRUE(Fails(with({}), 1, {"--prompt"}));
  EXPECT_TRUE(Fails(with({"--prompt", "hello"}), 1, {"tokenizer", "--prompt-ids"}));
  for (const char* ids : {",", "5,,6", "5;6", "a", "-1", "99999999999", "5,6,"}) {
    EXPECT_TRUE(Fails(with({absl::StrCat("--prompt-ids=", ids)}), 1, {})) << ids;
  }
  EXPECT_TRUE(Fails(with({"--prompt-ids", "5,1024"}), 1, {"1024", "1023"}));
  std::string many = "1";
  for (int i = 0; i < 600; ++i) many += ",1";
  EXPECT_TRUE(Fails(with({"--prompt-ids", many}), 1, {"601", "512"}));
  EXPECT_TRUE(Fails(with({"--prompt-ids", "5,6,7", "--context", "4"}), 1, {"context"}));
}

TEST_F(BadInput, InvalidUtf8) {
  const std::string folder = temp_ / "glm";
  CopyFolder(Fixture("tokenizers"), folder);
  WriteText(folder + "/config.json", R"({"model_type":"glm","tokenizer":{"kind":"sentencepiece",)"
                                     R"("model_file":"cog-pretrain.model","commands":[]}})");
  EXPECT_NE(Output({"tokenize", "--model", folder, "床前明月光"}), "");
  EXPECT_TRUE(Fails(Qianyi({"tokenize", "--model", folder, "\xff\xfe"}), 1, {"UTF-8"}));
  EXPECT_TRUE(Fails(Qianyi({"tokenize", "--model", folder, "abc\xe5\xba"}), 1, {"UTF-8"}));
}

TEST_F(BadInput, NumbersOutOfRange) {
  const std::string model = *made_ / "model";
  const Arguments kFlags[] = {{"--max-tokens", "0"},
                              {"--max-tokens", "-5"},
                              {"--max-tokens", "99999999999999999999"},
                              {"--temperature", "-1"},
                              {"--temperature", "nan"},
                              {"--temperature", "inf"},
                              {"--top-k", "-1"},
                              {"--top-p", "0"},
                              {"--top-p", "1.5"},
                              {"--min-p", "-0.1"},
                              {"--repetition-penalty", "0"},
                              {"--presence-penalty", "1e30"},
                              {"--seed", "-1"},
                              {"--logit-bias", "5"},
                              {"--logit-bias", "999999:1"},
                              {"--host-memory", "0"},
                              {"--host-memory", "-1"},
                              {"--host-memory", "10EiB"},
                              {"--host-memory", "abc"},
                              {"--threads", "-2"},
                              {"--batch", "-1"},
                              {"--step-tokens", "0"},
                              {"--context", "-9"},
                              {"--device", "cuda"},
                              {"--numerics", "sloppy"}};
  for (const Arguments& flags : kFlags) {
    const ProcessResult result = Qianyi(Generate(model, flags));
    EXPECT_TRUE(result.exit_code == 1 || result.exit_code == 2)
        << flags[0] << " " << flags[1] << ": " << result.exit_code << "\n"
        << result.err;
    EXPECT_EQ(result.out, "") << flags[0] << " " << flags[1];
    EXPECT_NE(result.err, "") << flags[0] << " " << flags[1];
  }
}

TEST_F(BadInput, NobodyReadsTheOutput) {
  ProcessOptions closed;
  closed.keep_out = false;
  const ProcessResult result = Qianyi(Generate(*made_ / "model"), closed);
  EXPECT_EQ(result.signal, 0);
  EXPECT_EQ(result.exit_code, 1) << result.err;
}

}  // namespace
}  // namespace qianyi::testing
