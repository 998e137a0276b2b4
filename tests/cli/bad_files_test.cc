// Model folders and checkpoints that are damaged, or that lie: each is refused with a sentence that
// names the file, and never leaves half a model behind.
#include <cmath>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/cli/qianyi.h"
#include "tests/support/safetensors_text.h"

namespace qianyi::testing {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

json TinyConfig() {
  return {{"model_type", "chatglm"}, {"num_layers", 2},          {"hidden_size", 64},
          {"ffn_hidden_size", 96},   {"num_attention_heads", 4}, {"multi_query_group_num", 2},
          {"kv_channels", 16},       {"padded_vocab_size", 200}, {"seq_length", 128},
          {"add_qkv_bias", true}};
}

json HeaderOf(const std::string& file) {
  return json::parse(file.substr(8, HeaderBytes(file) - 8));
}

// The same data under another header.
std::string WithOtherHeader(const std::string& file, const json& header) {
  return WithHeader(header.dump(), 0) + file.substr(HeaderBytes(file));
}

class DamagedModel : public ::testing::Test {
 protected:
  DamagedModel() : folder_(temp_ / "model"), file_(folder_ + "/model.safetensors") {
    WriteText(temp_ / "config.json", TinyConfig().dump());
    Output({"synth", "--config", temp_ / "config.json", "--dtype", "int8", folder_});
    good_ = ReadText(file_);
  }

  ProcessResult Generate(const Arguments& more = {}) {
    return Qianyi(Arguments{"generate", "--model", folder_, "--prompt-ids", "1,2,3", "--max-tokens",
                            "3", "--quiet"} +
                  more);
  }
  void ExpectRefused(const std::string& text, const std::vector<std::string>& words) {
    WriteText(file_, text);
    EXPECT_TRUE(Fails(Generate(), 1, words));
    EXPECT_TRUE(Fails(Qianyi({"plan", "--model", folder_, "--json", "--host-bandwidth", "1GB/s",
                              "--compute", "1e12"}),
                      1, words));
  }

  TempFolder temp_;
  std::string folder_, file_, good_;
};

TEST_F(DamagedModel, CutShort) {
  const size_t header = HeaderBytes(good_);
  for (const size_t size :
       {size_t{0}, size_t{7}, size_t{8}, header / 2, header - 1, header, header + 5000,
        good_.size() / 2, good_.size() - 4096, good_.size() - 1}) {
    ExpectRefused(good_.substr(0, size), {"model.safetensors: "});
  }
  ExpectRefused(good_ + "more", {"model.safetensors: "});
}

TEST_F(DamagedModel, FlippedWeights) {
  const json header = HeaderOf(good_);
  for (const char* name : {"transformer.embedding.word_embeddings.weight.rows.0",
                           "transformer.encoder.layers.0.input_layernorm.weight",
                           "transformer.encoder.layers.1.self_attention.query_key_value.bias",
                           "transformer.encoder.layers.1.mlp.dense_4h_to_h.weight.rows.0",
                           "transformer.output_layer.weight.rows.0"}) {
    const auto& offsets = header[name]["data_offsets"];
    const size_t begin = HeaderBytes(good_) + offsets[0].get<size_t>();
    const size_t end = HeaderBytes(good_) + offsets[1].get<size_t>();
    for (const size_t at : {begin, (begin + end) / 2, end - 1}) {
      std::string bad = good_;
      bad[at] = static_cast<char>(bad[at] ^ 0x10);
      WriteText(file_, bad);
      const std::vector<std::string> words = {file_, "checksum", "damaged", "again"};
      EXPECT_TRUE(Fails(Generate(), 1, words)) << name << " at " << at;
    }
  }
  WriteText(file_, good_);
  EXPECT_EQ(Generate().exit_code, 0);
}

TEST_F(DamagedModel, FlippedWeightsThatStream) {
  // Enough of them that the least budget cannot hold all.
  const std::string config = WriteConfig(temp_, Family::kBlockLm);
  const std::string folder = temp_ / "streamed";
  Output({"synth", "--config", config, "--dtype", "f16", folder});
  const Arguments generate = {"generate", "--model",      folder, "--prompt-ids",
                              "1,2,3",    "--max-tokens", "3"};
  const std::string budget = absl::StrCat(LeastHostMiB(generate), "MiB");
  const Arguments streaming = generate + Arguments{"--host-memory", budget};
  EXPECT_EQ(Qianyi(streaming).exit_code, 0);
  std::string text = ReadText(folder + "/model.safetensors");
  text[text.size() * 2 / 3] = static_cast<char>(text[text.size() * 2 / 3] ^ 1);
  WriteText(folder + "/model.safetensors", text);
  EXPECT_TRUE(Fails(Qianyi(streaming), 1, {folder, "checksum"}));
}

TEST_F(DamagedModel, FlippedHeader) {
  // Every 71st byte of it: refused, or of no consequence (the names of padding).
  const std::string expected = Generate().out;
  int refused = 0;
  for (size_t at = 0; at < HeaderBytes(good_); at += 71) {
    std::string bad = good_;
    bad[at] = static_cast<char>(bad[at] ^ 0x02);
    WriteText(file_, bad);
    const ProcessResult result = Generate();
    if (result.exit_code == 0) {
      EXPECT_EQ(result.out, expected) << at;
    } else {
      EXPECT_TRUE(Fails(result, 1, {folder_})) << at;
      ++refused;
    }
  }
  EXPECT_GT(refused, 25);
}

TEST_F(DamagedModel, HeaderThatLies) {
  const json good = HeaderOf(good_);
  const std::string dense = "transformer.encoder.layers.0.self_attention.dense.weight";
  const std::string block = dense + ".rows.0";
  const uint64_t begin = good[block]["data_offsets"][0];
  const uint64_t end = good[block]["data_offsets"][1];
  auto lies = [&](const std::string& pointer, const json& value) {
    json header = good;
    header[json::json_pointer(pointer)] = value;
    ExpectRefused(WithOtherHeader(good_, header), {"model.safetensors: "});
  };
  lies("/" + block + "/data_offsets", {begin, end + 4096});
  lies("/" + block + "/data_offsets", {begin - 4096, end});
  lies("/" + block + "/data_offsets", {end, begin});
  lies("/" + block + "/data_offsets", {0, uint64_t{1} << 63});
  lies("/" + block + "/data_offsets", {begin, UINT64_MAX});
  lies("/" + block + "/data_offsets", {begin});
  lies("/" + block + "/data_offsets", {-1, 5});
  lies("/" + block + "/shape", {uint64_t{1} << 62, 16});
  lies("/" + block + "/shape", {-4});
  lies("/" + block + "/shape", "wide");
  lies("/" + block + "/dtype", "F32");
  lies("/" + block + "/dtype", "Q9");
  lies("/__metadata__/qianyi_format", "999");
  const std::string description = good["__metadata__"]["tensor:" + dense];
  auto describes = [&](const std::string& from, const std::string& to) {
    std::string text = description;
    ASSERT_NE(text.find(from), text.npos) << text;
    text.replace(text.find(from), from.size(), to);
    lies("/__metadata__/tensor:" + dense, text);
  };
  describes("\"int8\"", "\"int4\"");
  describes("\"int8\"", "\"int77\"");
  describes("\"group\":0", "\"group\":32");
  describes("[64,64]", "[64,128]");
  describes("[64,64]", "[18446744073709551615,64]");
  describes("[[0,64,", "[[0,128,");
  describes("[[0,64,", "[[16,64,");
  describes("[[0,64,", "[[0,-64,");
  describes("panels16", "panels99");
  lies("/__metadata__/tensor:" + dense, "{");
  lies("/__metadata__/tensor:" + dense, std::string(5000, '['));
  json without = good;
  without.erase(block);
  ExpectRefused(WithOtherHeader(good_, without), {"model.safetensors: "});
  for (const char* text : {"", "[]", "{", "5", "{\"a\":{\"a\":{}}}"}) {
    ExpectRefused(WithHeader(text, 64), {"model.safetensors: "});
  }
  ExpectRefused(WithHeader(std::string(100000, '['), 64), {"model.safetensors: "});
  ExpectRefused(std::string(8, '\xff') + good_.substr(8), {"model.safetensors: "});
}

TEST_F(DamagedModel, ConfigThatDisagrees) {
  auto config = [&](const char* field, const json& value, const std::vector<std::string>& words) {
    json other = TinyConfig();
    other[field] = value;
    WriteText(folder_ + "/config.json", other.dump());
    EXPECT_TRUE(Fails(Generate(), 1, words)) << field;
  };
  config("num_layers", 3, {folder_, "layers.2."});
  config("num_layers", 1, {folder_, "layers.1."});
  config("hidden_size", 128, {"model.safetensors", "[200, 64]", "[200, 128]"});
  config("padded_vocab_size", 300, {"model.safetensors", "[200, 64]", "[300, 64]"});
  config("add_qkv_bias", false, {folder_, "query_key_value.bias"});
  config("model_type", "llama", {folder_, "llama", "chatglm2"});
  WriteText(folder_ + "/config.json", SmallConfig(Family::kBlockLm));
  EXPECT_TRUE(Fails(Generate(), 1, {folder_, "lacks tensor"}));
  WriteText(folder_ + "/config.json", "");
  EXPECT_TRUE(Fails(Generate(), 1, {folder_, "config.json"}));
  fs::remove(folder_ + "/config.json");
  EXPECT_TRUE(Fails(Generate(), 1, {folder_, "config.json", "No such file"}));
  fs::create_directory(folder_ + "/config.json");
  EXPECT_TRUE(Fails(Generate(), 1, {folder_, "config.json", "folder"}));
}

TEST_F(DamagedModel, FoldersThatAreNoModel) {
  EXPECT_TRUE(Fails(Qianyi({"generate", "--model", temp_ / "nowhere", "--prompt-ids", "1"}), 1,
                    {"nowhere", "No such file"}));
  EXPECT_TRUE(
      Fails(Qianyi({"generate", "--model", file_, "--prompt-ids", "1"}), 1, {"model.safetensors"}));
  EXPECT_TRUE(Fails(Qianyi({"generate", "--model", temp_.path(), "--prompt-ids", "1"}), 1,
                    {temp_.path(), ".safetensors"}));
  // A checkpoint must be converted first, and the error says how.
  EXPECT_TRUE(Fails(Qianyi({"generate", "--model", Fixture("chatglm2"), "--prompt-ids", "1"}), 1,
                    {"chatglm2", "qianyi convert"}));
}

// Configurations from outside: `field` is named, and so is what it may be.
TEST(BadConfig, EveryFieldIsChecked) {
  TempFolder temp;
  const std::string path = temp / "config.json";
  auto refuse = [&](const std::string& text, const std::vector<std::string>& words) {
    WriteText(path, text);
    EXPECT_TRUE(Fails(Qianyi({"synth", "--config", path, temp / "out"}), 1, words))
        << text.substr(0, 100);
  };
  const json good = TinyConfig();
  for (const auto& [field, value] : good.items()) {
    if (!value.is_number_integer()) continue;
    for (const json& bad :
         {json(-1), json(0), json(int64_t{1} << 40), json(UINT64_MAX), json(1e300), json("64"),
          json(2.5), json::array(), json::object(), json(true)}) {
      json config = good;
      config[field] = bad;
      refuse(config.dump(), {path, field});
    }
  }
  auto with = [&](const char* field, const json& value) {
    json config = good;
    config[field] = value;
    return config.dump();
  };
  refuse(with("num_attention_heads", 5), {path, "multiple"});
  refuse(with("kv_channels", 3), {path, "kv_channels"});
  refuse(with("seq_length", nullptr), {path, "seq_length"});
  refuse(with("layernorm_epsilon", "x"), {path, "layernorm_epsilon"});
  refuse(with("eos_token_id", -3), {path, "eos_token_id"});
  refuse(with("tie_word_embeddings", true), {path, "tie_word_embeddings", "false"});
  refuse("", {path, "JSON"});
  refuse("{", {path, "JSON"});
  refuse("[]", {path, "object"});
  refuse("{}", {path, "model_type"});
  EXPECT_EQ(NamesIn(temp.path()), (std::vector<std::string>{"config.json"}));
  // Every command reads it the same way.
  WriteText(path, with("hidden_size", -1));
  EXPECT_TRUE(Fails(Qianyi({"plan", "--config", path}), 1, {path, "hidden_size"}));
  EXPECT_TRUE(
      Fails(Qianyi({"generate", "--synth", path, "--prompt-ids", "1"}), 1, {path, "hidden_size"}));
}

TEST(BadConfig, NestedWithoutEnd) {
  TempFolder temp;
  const std::string path = temp / "config.json";
  const std::string deep = std::string(200000, '[') + std::string(200000, ']');
  std::vector<std::string> texts = {deep, std::string(500000, '['), "{\"a\":" + deep + "}"};
  const json tiny = TinyConfig();
  for (const auto& [field, value] : tiny.items()) {
    std::string text = tiny.dump();
    const std::string plain = absl::StrCat("\"", field, "\":", value.dump());
    ASSERT_NE(text.find(plain), text.npos);
    texts.push_back(
        text.replace(text.find(plain), plain.size(), absl::StrCat("\"", field, "\":", deep)));
  }
  for (const std::string& text : texts) {
    WriteText(path, text);
    EXPECT_TRUE(Fails(Qianyi({"synth", "--config", path, temp / "out"}), 1, {path}));
  }
}

TEST(BadConfig, UnknownNames) {
  EXPECT_TRUE(
      Fails(Qianyi({"plan", "--config", "glm-11b"}), 1, {"glm-11b", "glm-10b", "glm-4-9b"}));
  EXPECT_TRUE(
      Fails(Qianyi({"generate", "--synth", "glm-11b", "--prompt-ids", "1"}), 1, {"glm-11b"}));
  EXPECT_TRUE(Fails(Qianyi({"synth", "--config", "glm-11b", "out"}), 1, {"glm-11b"}));
}

// A checkpoint, the fixture's, that `convert` must refuse. Nothing is left of the attempt.
class BadCheckpoint : public ::testing::Test {
 protected:
  BadCheckpoint() : source_(temp_ / "source") {
    fs::create_directory(source_);
    fs::copy(Fixture("chatglm2") + "/config.json", source_);
    good_ = ReadSafetensors(Fixture("chatglm2") + "/weights.safetensors");
  }
  void Write(const std::vector<TestTensor>& tensors) {
    WriteText(source_ + "/model.safetensors", SafetensorsText(tensors));
  }
  void ExpectRefused(const std::vector<std::string>& words, const std::string& dtype = "int4") {
    const ProcessResult result =
        Qianyi({"convert", source_, temp_ / "model", "--dtype", dtype, "--threads", "2"});
    EXPECT_TRUE(Fails(result, 1, words));
    EXPECT_EQ(temp_.Names(), (std::vector<std::string>{"source"}));
  }

  const std::string dense_ = "transformer.encoder.layers.1.self_attention.dense.weight";
  TempFolder temp_;
  std::string source_;
  std::vector<TestTensor> good_;
};

TEST_F(BadCheckpoint, TensorsThatDoNotFit) {
  std::vector<TestTensor> tensors = good_;
  std::erase_if(tensors, [&](const TestTensor& tensor) { return tensor.name == dense_; });
  Write(tensors);
  ExpectRefused({source_, "lacks 1 of", dense_});
  tensors = good_;
  Named(tensors, dense_).shape = {48, 192};
  Write(tensors);
  ExpectRefused({"model.safetensors", dense_, "[48, 192]", "[96, 96]"});
  tensors = good_;
  Named(tensors, dense_).dtype = "I32";
  Write(tensors);
  ExpectRefused({"model.safetensors", dense_, "I32", "BF16"});
}

TEST_F(BadCheckpoint, WeightsThatAreNoNumbers) {
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    for (const char* name : {"transformer.encoder.layers.2.mlp.dense_4h_to_h.weight",
                             "transformer.encoder.final_layernorm.weight",
                             "transformer.embedding.word_embeddings.weight"}) {
      std::vector<TestTensor> tensors = good_;
      TestTensor& tensor = Named(tensors, name);
      std::vector<float> values = FloatsOf(tensor);
      values[values.size() - 3] = bad;
      tensor = F32Tensor(name, tensor.shape, values);
      Write(tensors);
      for (const char* dtype : {"f32", "f16", "int8", "int4"}) {
        ExpectRefused({"model.safetensors", name, "row", "column"}, dtype);
      }
    }
  }
  // A number, but not one of half precision.
  std::vector<TestTensor> tensors = good_;
  Named(tensors, dense_).Add(7, 1e6);
  Write(tensors);
  ExpectRefused({dense_, "too large for f16", "bf16"}, "f16");
}

TEST_F(BadCheckpoint, DamagedFiles) {
  const std::string good = SafetensorsText(good_);
  const std::string path = source_ + "/model.safetensors";
  for (const size_t size : {size_t{0}, size_t{5}, size_t{8}, HeaderBytes(good) / 2,
                            HeaderBytes(good), good.size() / 2, good.size() - 1}) {
    WriteText(path, good.substr(0, size));
    ExpectRefused({path});
  }
  json header = HeaderOf(good);
  for (const json& offsets : {json{0, uint64_t{1} << 62}, json{5, 4}, json{0, 4}, json{-1, 0}}) {
    header[dense_]["data_offsets"] = offsets;
    WriteText(path, WithOtherHeader(good, header));
    ExpectRefused({path});
  }
  WriteText(path, WithHeader("{\"" + dense_ + "\":" + std::string(50000, '['), 10));
  ExpectRefused({path});
}

TEST_F(BadCheckpoint, IndexesThatLie) {
  const std::string index = source_ + "/model.safetensors.index.json";
  WriteText(source_ + "/shard.safetensors", SafetensorsText(good_));
  auto refuse = [&](const json& map, const std::vector<std::string>& words) {
    WriteText(index, json{{"weight_map", map}}.dump());
    ExpectRefused(words);
  };
  refuse({{dense_, "../elsewhere.safetensors"}}, {index, "../elsewhere.safetensors"});
  refuse({{dense_, "/etc/passwd"}}, {index, "/etc/passwd"});
  refuse({{dense_, "gone.safetensors"}}, {"gone.safetensors", index});
  refuse({{"no.such.tensor", "shard.safetensors"}}, {index, "no.such.tensor"});
  refuse({{dense_, 5}}, {index, dense_});
  refuse({{dense_, "shard.safetensors"}}, {source_, "lacks"});
  refuse(5, {index, "weight_map"});
  WriteText(index, std::string(300000, '['));
  ExpectRefused({index});
  fs::remove(index);
  WriteText(source_ + "/other.safetensors", SafetensorsText(good_));
  ExpectRefused({source_, "other.safetensors", "shard.safetensors"});
}

TEST_F(BadCheckpoint, SourcesThatAreNone) {
  ExpectRefused({source_, "no .safetensors"});
  fs::remove(source_ + "/config.json");
  Write(good_);
  ExpectRefused({"config.json", "No such file"});
  EXPECT_TRUE(Fails(Qianyi({"convert", temp_ / "nowhere", temp_ / "model"}), 1, {"nowhere"}));
  // What is converted already.
  WriteText(source_ + "/config.json", TinyConfig().dump());
  Output({"synth", "--config", source_ + "/config.json", temp_ / "done"});
  EXPECT_TRUE(Fails(Qianyi({"convert", temp_ / "done", temp_ / "model"}), 1, {"already"}));
}

TEST(BadDestination, IsRefusedBeforeAnyWork) {
  TempFolder temp;
  WriteText(temp / "file", "precious");
  fs::create_directory(temp / "full");
  WriteText(temp / "full/note", "precious");
  fs::create_symlink(temp / "full", temp / "link");
  WriteText(temp / "config.json", TinyConfig().dump());
  const std::vector<std::string> before = temp.Names();
  for (const Arguments& command : {Arguments{"convert", Fixture("chatglm2")},
                                   Arguments{"synth", "--config", temp / "config.json"}}) {
    for (const char* name : {"file", "full", "full/", "link"}) {
      EXPECT_TRUE(Fails(Qianyi(command + Arguments{temp / name}), 1, {"exists already", "remove"}))
          << name;
    }
    EXPECT_TRUE(Fails(Qianyi(command + Arguments{temp / "no/such/place"}), 1, {"no/such"}));
    EXPECT_TRUE(Fails(Qianyi(command + Arguments{temp / "file/model"}), 1, {"file"}));
    EXPECT_TRUE(Fails(Qianyi(command + Arguments{"/proc/model"}), 1, {"/proc"}));
    EXPECT_TRUE(Fails(Qianyi(command + Arguments{""}), 1, {"destination"}));
  }
  EXPECT_EQ(temp.Names(), before);
  EXPECT_EQ(ReadText(temp / "file"), "precious");
  EXPECT_EQ(ReadText(temp / "full/note"), "precious");
}

}  // namespace
}  // namespace qianyi::testing
