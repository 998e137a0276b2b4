#include "tests/cli/qianyi.h"

#include <cmath>
#include <cstdlib>
#include <string_view>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/support/paths.h"

namespace qianyi::testing {
namespace {

std::string Shown(const ProcessResult& result) {
  return absl::StrCat("exit status ", result.exit_code, ", signal ", result.signal,
                      result.timed_out ? ", timed out" : "",
                      "\nstdout: ", result.out.substr(0, 2000),
                      "\nstderr: ", result.err.substr(0, 8000));
}

std::string LastLine(const std::string& text) {
  const size_t end = text.find_last_not_of('\n');
  if (end == std::string::npos) return "";
  const size_t before = text.rfind('\n', end);
  return text.substr(before == std::string::npos ? 0 : before + 1,
                     end - (before == std::string::npos ? 0 : before + 1) + 1);
}

}  // namespace

Arguments operator+(Arguments left, const Arguments& right) {
  left.insert(left.end(), right.begin(), right.end());
  return left;
}

ProcessResult Qianyi(const Arguments& arguments, const ProcessOptions& options) {
  return RunProcess(Arguments{ProgramPath()} + arguments, options);
}

std::string Output(const Arguments& arguments) {
  const ProcessResult result = Qianyi(arguments);
  EXPECT_EQ(result.exit_code, 0) << Shown(result);
  return result.out;
}

nlohmann::json OutputJson(const Arguments& arguments) {
  const std::string text = Output(arguments);
  nlohmann::json json = nlohmann::json::parse(text, nullptr, false);
  EXPECT_TRUE(json.is_object()) << text;
  return json.is_object() ? json : nlohmann::json::object();
}

::testing::AssertionResult Fails(const ProcessResult& result, int exit_code,
                                 const std::vector<std::string>& words) {
  const std::string last = LastLine(result.err);
  auto failure = [&](const std::string& why) {
    return ::testing::AssertionFailure() << why << "\n" << Shown(result);
  };
  if (result.exit_code != exit_code) return failure(absl::StrCat("not exit status ", exit_code));
  if (!result.out.empty()) return failure("standard output is not empty");
  if (!absl::StartsWith(last, "qianyi: ")) return failure("the last line is no error");
  for (const std::string& word : words) {
    if (!absl::StrContains(last, word)) return failure("the error does not say: " + word);
  }
  return ::testing::AssertionSuccess();
}

std::string SmallConfig(Family family) {
  if (family == Family::kChatGlm2) {
    return R"({"model_type":"chatglm","num_layers":4,"hidden_size":384,"ffn_hidden_size":1024,)"
           R"("num_attention_heads":12,"multi_query_attention":true,"multi_query_group_num":3,)"
           R"("kv_channels":32,"padded_vocab_size":1024,"seq_length":512,)"
           R"("layernorm_epsilon":1e-5,"add_qkv_bias":true,"eos_token_id":2})";
  }
  return R"({"model_type":"glm","num_layers":4,"hidden_size":384,"num_attention_heads":6,)"
         R"("max_sequence_length":512,"vocab_size":1024,"special_token_ids":{"ENC":1000,)"
         R"("eos":1001,"sop":1002,"eop":1003,"MASK":1004,"gMASK":1005,"sMASK":1006}})";
}

std::string WriteConfig(const TempFolder& folder, Family family) {
  const std::string path = folder / "small.json";
  WriteText(path, SmallConfig(family));
  return path;
}

std::vector<TestShape> ChatGlm2Tensors(const nlohmann::json& config) {
  auto size = [&](const char* field) { return config[field].get<int64_t>(); };
  const int64_t hidden = size("hidden_size");
  const int64_t ffn = size("ffn_hidden_size");
  const int64_t query = size("num_attention_heads") * size("kv_channels");
  const int64_t group = size("multi_query_group_num") * size("kv_channels");
  const int64_t vocab = size("padded_vocab_size");
  std::vector<TestShape> tensors = {
      {"transformer.embedding.word_embeddings.weight", {vocab, hidden}},
      {"transformer.encoder.final_layernorm.weight", {hidden}},
      {"transformer.output_layer.weight", {vocab, hidden}}};
  for (int64_t i = 0; i < size("num_layers"); ++i) {
    const std::string layer = absl::StrCat("transformer.encoder.layers.", i, ".");
    tensors.insert(tensors.end(),
                   {{layer + "input_layernorm.weight", {hidden}},
                    {layer + "self_attention.query_key_value.weight", {query + 2 * group, hidden}},
                    {layer + "self_attention.dense.weight", {hidden, query}},
                    {layer + "post_attention_layernorm.weight", {hidden}},
                    {layer + "mlp.dense_h_to_4h.weight", {2 * ffn, hidden}},
                    {layer + "mlp.dense_4h_to_h.weight", {hidden, ffn}}});
  }
  return tensors;
}

uint64_t LeastHostMiB(const Arguments& arguments) {
  const ProcessResult result = Qianyi(arguments + Arguments{"--host-memory", "1MiB"});
  EXPECT_TRUE(Fails(result, 1, {"needs at least", "--host-memory"}));
  const std::string mark = "needs at least ";
  const size_t at = result.err.find(mark);
  if (at == std::string::npos) return 0;
  char* unit = nullptr;
  const double number = std::strtod(result.err.c_str() + at + mark.size(), &unit);
  const double amount = number * (std::string_view(unit).starts_with(" GiB") ? 1024 : 1);
  return static_cast<uint64_t>(std::ceil(amount));
}

std::string Fixture(const std::string& name) { return FixturePath(name); }

}  // namespace qianyi::testing
