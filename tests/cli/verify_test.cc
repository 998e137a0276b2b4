// Replays of the fixtures through the command: they pass as they are, and any one number that
// is changed makes them fail.
#include <algorithm>
#include <filesystem>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gtest/gtest.h"
#include "runtime/models/registry.h"
#include "tests/cli/qianyi.h"
#include "tests/support/paths.h"
#include "tests/support/safetensors_text.h"

namespace qianyi::testing {
namespace {

class VerifyCommand : public ::testing::TestWithParam<std::string> {
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
  const char* prompt = GetParam() == "glm-blocklm" ? "context_ids" : "prompt_ids";
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

// What is left of a text of several masks when all but the last are filled is a text of one.
TEST(VerifyModels, ATextOfOneMaskIsFilledToo) {
  const TempFolder temp;
  const std::string folder = temp / "fixture";
  CopyFolder(Fixture("glm-130b"), folder);
  nlohmann::json cases = nlohmann::json::parse(ReadText(folder + "/cases.json"));
  nlohmann::json& refill = cases["cases"].back();
  ASSERT_EQ(refill["steps"].size(), 2);
  refill["steps"].erase(0);
  WriteText(folder + "/cases.json", cases.dump());
  const ProcessResult run = Qianyi({"verify", folder, "--only", "two_masks_refill"});
  EXPECT_EQ(run.exit_code, 0) << run.out << run.err;
  EXPECT_NE(run.out.find("final_sequence"), std::string::npos);
  refill["final_sequence"][0] = refill["final_sequence"][0].get<int>() + 1;
  WriteText(folder + "/cases.json", cases.dump());
  EXPECT_EQ(Qianyi({"verify", folder, "--only", "two_masks_refill"}).exit_code, 1);
}

// Then the original has the rows of each head together: those of the fixture's groups, for every
// query head of a group.
TEST(VerifyModels, ChatGlm2WithoutGroups) {
  const TempFolder temp;
  const std::string folder = temp / "fixture";
  CopyFolder(Fixture("chatglm2"), folder);
  nlohmann::json config = nlohmann::json::parse(ReadText(folder + "/config.json"));
  const int64_t heads = config["num_attention_heads"], groups = config["multi_query_group_num"];
  const int64_t head_dim = config["kv_channels"];
  config["multi_query_attention"] = false;
  WriteText(folder + "/config.json", config.dump());
  const std::string path = folder + "/weights.safetensors";
  std::vector<TestTensor> tensors = ReadSafetensors(path);
  for (TestTensor& tensor : tensors) {
    if (tensor.name.find("query_key_value") == std::string::npos) continue;
    const std::string old = tensor.bytes;
    const size_t head_bytes = old.size() / (heads + 2 * groups);
    tensor.bytes.clear();
    for (int64_t h = 0; h < heads; ++h) {
      const int64_t group = h / (heads / groups);
      for (const int64_t from : {h, heads + group, heads + groups + group}) {
        tensor.bytes += old.substr(from * head_bytes, head_bytes);
      }
    }
    tensor.shape[0] = 3 * heads * head_dim;
  }
  WriteText(path, SafetensorsText(tensors));
  const ProcessResult run = Qianyi({"verify", folder});
  EXPECT_EQ(run.exit_code, 0) << run.out << run.err;
}

// The original's PB-relax only keeps half precision from overflowing.
TEST(VerifyModels, AnAttentionScaleChangesNothing) {
  const TempFolder temp;
  const std::string folder = temp / "fixture";
  CopyFolder(Fixture("glm-blocklm"), folder);
  nlohmann::json config = nlohmann::json::parse(ReadText(folder + "/config.json"));
  config["attention_scale"] = 8.0;
  WriteText(folder + "/config.json", config.dump());
  const ProcessResult run = Qianyi({"verify", folder});
  EXPECT_EQ(run.exit_code, 0) << run.out << run.err;
  config["attention_scale"] = "much";
  WriteText(folder + "/config.json", config.dump());
  EXPECT_TRUE(Fails(Qianyi({"verify", folder}), 1, {"attention_scale"}));
}

template <typename Name>
std::string FolderName(const ::testing::TestParamInfo<Name>& test) {
  return absl::StrReplaceAll(test.param, {{"-", "_"}, {"/", "_"}});
}

// Every fixture of a family of text.
std::vector<std::string> ModelFixtures() {
  std::vector<std::string> names;
  for (const std::string& name : NamesIn(FixturePath())) {
    const std::string path = Fixture(name) + "/config.json";
    if (!std::filesystem::exists(path)) continue;
    const std::string kind = nlohmann::json::parse(ReadText(path)).value("fixture", "");
    for (const ModelFamily& family : ModelFamilies()) {
      if (family.name == kind && kind != "cogview") names.push_back(name);
    }
  }
  return names;
}
INSTANTIATE_TEST_SUITE_P(Models, VerifyCommand, ::testing::ValuesIn(ModelFixtures()),
                         FolderName<std::string>);
TEST(VerifyFixtures, EveryFamilyHasOne) {
  std::set<std::string> kinds;
  for (const std::string& name : ModelFixtures()) {
    kinds.insert(nlohmann::json::parse(ReadText(Fixture(name) + "/config.json")).at("fixture"));
  }
  EXPECT_EQ(kinds.size(), ModelFamilies().size() - 1) << "CogView has another test";
}

// GLM-130B's INT8 and INT4 weights, which stand in files of their own.
class VerifyQuantized : public ::testing::TestWithParam<const char*> {
 protected:
  VerifyQuantized() : folder_(temp_ / "fixture") {
    CopyFolder(Fixture("glm-130b"), folder_);
    cases_ = nlohmann::json::parse(ReadText(folder_ + "/cases.json"));
  }
  int Verify() { return Qianyi({"verify", folder_, "--only", Name() + ".*"}).exit_code; }
  std::string Name() const { return GetParam(); }
  TempFolder temp_;
  const std::string folder_;
  nlohmann::json cases_;
};

TEST_P(VerifyQuantized, AnyChangedNumberFails) {
  EXPECT_EQ(Verify(), 0);
  for (const char* field : {"entries", "entries_that_differ_if_division_is_fp32",
                            "max_logit_change_if_dequantised_weights_are_rounded_to_fp16"}) {
    nlohmann::json changed = cases_;
    nlohmann::json& value = changed["quantized"][Name()][field];
    value = value.is_number_integer() ? nlohmann::json(value.get<int>() + 1)
                                      : nlohmann::json(value.get<double>() + 0.05);
    WriteText(folder_ + "/cases.json", changed.dump());
    EXPECT_EQ(Verify(), 1) << field;
  }
  for (const char* field : {"continuation_logprob_sum", "greedy_min_top1_top2_margin",
                            "max_abs_diff_to_unquantised_logits"}) {
    nlohmann::json changed = cases_;
    nlohmann::json& value = changed["quantized"][Name()]["cases"][1][field];
    value = value.get<double>() + 0.05;
    WriteText(folder_ + "/cases.json", changed.dump());
    EXPECT_EQ(Verify(), 1) << field;
  }
  nlohmann::json changed = cases_;
  changed["quantized"][Name()]["new_field"] = 5;
  WriteText(folder_ + "/cases.json", changed.dump());
  EXPECT_EQ(Verify(), 1);
}

TEST_P(VerifyQuantized, AnyChangedTensorFails) {
  const std::string cases = folder_ + "/cases_" + Name() + ".safetensors";
  const std::vector<TestTensor> tensors = ReadSafetensors(cases);
  for (size_t t = 0; t < tensors.size(); ++t) {
    std::vector<TestTensor> changed = tensors;
    changed[t].Add(changed[t].elements() / 2, 0.05);
    WriteText(cases, SafetensorsText(changed));
    EXPECT_EQ(Verify(), 1) << tensors[t].name;
  }
  WriteText(cases, SafetensorsText(tensors));
  const std::string weights = folder_ + "/weights_" + Name() + ".safetensors";
  std::vector<TestTensor> changed = ReadSafetensors(weights);
  char& integer = Named(changed, "transformer.layers.1.mlp.dense_4h_to_h.weight").bytes[100];
  integer = static_cast<char>(integer ^ 1);
  WriteText(weights, SafetensorsText(changed));
  EXPECT_EQ(Verify(), 1);
}

INSTANTIATE_TEST_SUITE_P(Bits, VerifyQuantized, ::testing::Values("int8", "int4"),
                         FolderName<const char*>);

// The fixtures of adapters name the folder of their model, which is copied beside them.
class VerifyAdapters : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    for (const char* base : {"chatglm2", "chatglm-6b"}) CopyFolder(Fixture(base), temp_ / base);
    std::filesystem::create_directories(temp_ / "ptuning-v2");
    folder_ = temp_ / GetParam();
    CopyFolder(Fixture(GetParam()), folder_);
  }
  bool lora() const { return GetParam() == std::string("lora"); }
  // The first case of cases.json.
  nlohmann::json& First(nlohmann::json& cases) const {
    return lora() ? cases["cases"][0] : cases["variants"][1]["cases"][0];
  }
  void FailsWithJson(const std::string& file, const nlohmann::json& changed) {
    const std::string path = folder_ + "/" + file, good = ReadText(path);
    WriteText(path, changed.dump());
    EXPECT_EQ(Qianyi({"verify", folder_}).exit_code, 1) << changed.dump().substr(0, 300);
    WriteText(path, good);
  }
  TempFolder temp_;
  std::string folder_;
};

TEST_P(VerifyAdapters, PassesAsItIs) {
  const std::string out = Output({"verify", folder_});
  EXPECT_EQ(out.find("FAIL"), std::string::npos);
  EXPECT_EQ(out.find("UNKNOWN"), std::string::npos);
  EXPECT_NE(out.find(".greedy_tokens"), std::string::npos);
}

TEST_P(VerifyAdapters, AnyChangedTensorFails) {
  const std::string path = folder_ + "/cases.safetensors";
  const std::vector<TestTensor> tensors = ReadSafetensors(path);
  for (size_t t = 0; t < tensors.size(); ++t) {
    std::vector<TestTensor> changed = tensors;
    changed[t].Add(changed[t].elements() / 2, 0.05);
    WriteText(path, SafetensorsText(changed));
    EXPECT_EQ(Qianyi({"verify", folder_}).exit_code, 1) << tensors[t].name;
  }
  std::vector<TestTensor> more = tensors;
  more.push_back(F32Tensor("something_new", {2}, {1.0f, 2.0f}));
  WriteText(path, SafetensorsText(more));
  const ProcessResult result = Qianyi({"verify", folder_});
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_NE(result.out.find("UNKNOWN"), std::string::npos);
}

TEST_P(VerifyAdapters, AnyChangedNumberFails) {
  const nlohmann::json cases = nlohmann::json::parse(ReadText(folder_ + "/cases.json"));
  for (const char* field :
       {"continuation_logprob_sum", "greedy_min_top1_top2_margin", "max_abs_change_from_base"}) {
    nlohmann::json changed = cases;
    First(changed)[field] = First(changed)[field].get<double>() + 0.05;
    FailsWithJson("cases.json", changed);
  }
  nlohmann::json changed = cases;
  First(changed)["greedy_tokens"][5] = First(changed)["greedy_tokens"][5].get<int>() + 1;
  FailsWithJson("cases.json", changed);
  changed = cases;
  changed["new_field"] = 5;
  FailsWithJson("cases.json", changed);
  const nlohmann::json config = nlohmann::json::parse(ReadText(folder_ + "/config.json"));
  for (const char* field : {"r", "lora_alpha", "pre_seq_len"}) {
    if (!config.contains(field)) continue;
    changed = config;
    changed[field] = config[field].get<double>() + 1;
    FailsWithJson("config.json", changed);
  }
  if (!lora()) return;
  for (const char* field :
       {"max_abs_change_from_base", "max_abs_diff_to_merged_weights", "r", "lora_alpha"}) {
    changed = cases;
    changed["sat_adapter_case"][field] = cases["sat_adapter_case"][field].get<double>() + 0.05;
    FailsWithJson("cases.json", changed);
  }
}

TEST_P(VerifyAdapters, AChangedAdapterFails) {
  const std::string path =
      folder_ + (lora() ? "/adapter_model.safetensors" : "/prefix_encoder.safetensors");
  std::vector<TestTensor> tensors = ReadSafetensors(path);
  tensors.back().Add(3, 0.5);
  WriteText(path, SafetensorsText(tensors));
  EXPECT_EQ(Qianyi({"verify", folder_}).exit_code, 1);
}

// The training framework's adapter need not have the rank and the modules of the other.
TEST_P(VerifyAdapters, TwoAdaptersOfDifferentRanksAndModules) {
  if (!lora()) return;
  const std::string sat = folder_ + "/adapter_sat.safetensors";
  std::vector<TestTensor> tensors = ReadSafetensors(sat);
  for (TestTensor& tensor : tensors) {  // one rank more, of zeros
    const bool down = tensor.name.find("matrix_A") != std::string::npos;
    const int64_t rows = tensor.shape[0], cols = tensor.shape[1];
    const std::vector<float> old = FloatsOf(tensor);
    std::vector<float> values;
    for (int64_t r = 0; r < rows + (down ? 1 : 0); ++r) {
      for (int64_t c = 0; c < cols + (down ? 0 : 1); ++c) {
        values.push_back(r < rows && c < cols ? old[r * cols + c] : 0.0f);
      }
    }
    tensor = down ? F32Tensor(tensor.name, {rows + 1, cols}, values)
                  : F32Tensor(tensor.name, {rows, cols + 1}, values);
  }
  WriteText(sat, SafetensorsText(tensors));
  nlohmann::json cases = nlohmann::json::parse(ReadText(folder_ + "/cases.json"));
  nlohmann::json& fields = cases["sat_adapter_case"];
  const double rank = fields["r"].get<double>(), alpha = fields["lora_alpha"].get<double>();
  fields["r"] = static_cast<int>(rank) + 1;
  fields["lora_alpha"] = alpha * (rank + 1) / rank;
  WriteText(folder_ + "/cases.json", cases.dump());
  // And the other gets a module that this one does not have, which adds nothing.
  const std::string peft = folder_ + "/adapter_model.safetensors";
  tensors = ReadSafetensors(peft);
  const nlohmann::json base = nlohmann::json::parse(ReadText(temp_ / "chatglm2/config.json"));
  const int64_t hidden = base["hidden_size"].get<int64_t>();
  const int64_t inner = base["ffn_hidden_size"].get<int64_t>();
  const auto r = static_cast<int64_t>(rank);
  for (int layer = 0; layer < base["num_layers"].get<int>(); ++layer) {
    const std::string module = absl::StrCat("base_model.model.transformer.encoder.layers.", layer,
                                            ".mlp.dense_4h_to_h.lora_");
    tensors.push_back(
        F32Tensor(module + "A.weight", {r, inner}, std::vector<float>(r * inner, 1.0f)));
    tensors.push_back(
        F32Tensor(module + "B.weight", {hidden, r}, std::vector<float>(hidden * r, 0.0f)));
  }
  WriteText(peft, SafetensorsText(tensors));
  for (const char* file : {"/config.json", "/adapter_config.json"}) {
    nlohmann::json config = nlohmann::json::parse(ReadText(folder_ + file));
    config["target_modules"].push_back("dense_4h_to_h");
    WriteText(folder_ + file, config.dump());
  }
  const ProcessResult run = Qianyi({"verify", folder_});
  EXPECT_EQ(run.exit_code, 0) << run.out << run.err;
}

TEST_P(VerifyAdapters, NamesABaseThatIsNotThere) {
  nlohmann::json config = nlohmann::json::parse(ReadText(folder_ + "/config.json"));
  config["base_model"] = "../nowhere";
  WriteText(folder_ + "/config.json", config.dump());
  EXPECT_TRUE(Fails(Qianyi({"verify", folder_}), 1, {"base_model", "../nowhere"}));
}

INSTANTIATE_TEST_SUITE_P(Folders, VerifyAdapters,
                         ::testing::Values("lora", "ptuning-v2/chatglm2", "ptuning-v2/chatglm-6b"),
                         FolderName<const char*>);

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
