// Values that no flag can have: an error that names the flag or field and its limits, at once.
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gtest/gtest.h"
#include "tests/cli/qianyi.h"

namespace qianyi::testing {
namespace {

class BadFlags : public ::testing::Test {
 protected:
  ProcessResult Generate(const Arguments& more) {
    return Qianyi(Arguments{"generate", "--synth", config_} + more);
  }
  void ExpectRefused(const char* flag, const std::vector<const char*>& values, int exit_code,
                     const std::vector<std::string>& words) {
    for (const char* value : values) {
      EXPECT_TRUE(
          Fails(Generate({"--prompt-ids", "1", absl::StrCat(flag, "=", value)}), exit_code, words))
          << flag << " " << value;
    }
  }

  TempFolder temp_;
  const std::string config_ = WriteConfig(temp_, Family::kChatGlm2);
};

TEST_F(BadFlags, Sampling) {
  const std::vector<const char*> no_floats = {"abc", "1,5", "0.5x"};
  for (const char* flag : {"--temperature", "--top-p", "--min-p", "--repetition-penalty",
                           "--presence-penalty", "--frequency-penalty"}) {
    ExpectRefused(flag, no_floats, 2, {flag});
  }
  ExpectRefused("--temperature", {"-1", "nan", "inf", "-inf", "101", "1e30", "1e999"}, 1,
                {"temperature", "from 0 to 100"});
  ExpectRefused("--top-p", {"-1", "0", "nan", "inf", "1.01", "1e30"}, 1,
                {"top_p", "above 0 and at most 1"});
  ExpectRefused("--min-p", {"-1", "nan", "inf", "1", "1e30"}, 1,
                {"min_p", "at least 0 and below 1"});
  ExpectRefused("--repetition-penalty", {"-1", "0", "nan", "inf", "11"}, 1, {"repetition_penalty"});
  ExpectRefused("--presence-penalty", {"-11", "nan", "inf", "11"}, 1, {"presence_penalty"});
  ExpectRefused("--frequency-penalty", {"-11", "nan", "inf", "11"}, 1, {"frequency_penalty"});
  ExpectRefused("--top-k", {"-1", "-2147483648"}, 1, {"top_k is -", "0"});
  ExpectRefused("--top-k", {"2147483648", "1.5", "1e9", "x", "nan"}, 2, {"--top-k"});
  ExpectRefused("--seed", {"-1", "1.5", "18446744073709551616", "x"}, 2, {"--seed", "2^64"});
  ExpectRefused("--synth-seed", {"-1", "x"}, 2, {"--synth-seed", "2^64"});
  ExpectRefused("--logit-bias", {"5", "5:", ":1", "5:x", "5,6:1", "x:1", "5:1:2"}, 1,
                {"--logit-bias"});
  ExpectRefused("--logit-bias", {"5:nan", "5:101", "5:inf", "1024:1"}, 1, {"logit_bias"});
  ExpectRefused("--stop-id", {"-1", "1024", "2147483647"}, 1, {"stop", "1023"});
  ExpectRefused("--stop-id", {"x", "2147483648"}, 2, {"--stop-id"});
}

TEST_F(BadFlags, Lengths) {
  ExpectRefused("--max-tokens", {"-1", "0", "99999999999", "1.5", "x", "nan"}, 2,
                {"--max-tokens", "1 to"});
  ExpectRefused("--max-tokens", {"513", "16777216"}, 1, {"max_tokens", "512"});
  ExpectRefused("--max-tokens", {"512"}, 1, {"max_tokens 512", "up to 512"});
  ExpectRefused("--context", {"-1", "99999999999", "x"}, 2, {"--context"});
  ExpectRefused("--context", {"1", "128"}, 1, {"context is", "--context"});
  ExpectRefused("--batch", {"-1", "65537", "x"}, 2, {"--batch"});
  ExpectRefused("--step-tokens", {"-1", "0", "99999999999", "x"}, 2, {"--step-tokens"});
  ExpectRefused("--threads", {"-1", "1025", "x"}, 2, {"--threads"});
}

TEST_F(BadFlags, Memory) {
  const std::vector<const char*> no_sizes = {"-1",  "abc",  "10EiB", "2000000TiB", "nan",  "inf",
                                             "1e9", "0x10", "5 5",   "GiB",        "-5GiB"};
  ExpectRefused("--host-memory", no_sizes, 2, {"--host-memory", "3GiB"});
  ExpectRefused("--host-memory", {"0", "0GiB"}, 2, {"--host-memory", "3GiB"});
  ExpectRefused("--device-memory", no_sizes, 2, {"--device-memory", "3GiB"});
  ExpectRefused("--host-memory", {"1", "1KiB", "20MiB"}, 1,
                {"needs at least", "MiB", "--host-memory is", "--context", "--batch"});
}

TEST_F(BadFlags, Choices) {
  ExpectRefused("--device", {"tpu", "CUDA"}, 2, {"--device", "cpu"});
  ExpectRefused("--numerics", {"best"}, 2, {"--numerics", "exact"});
  ExpectRefused("--dtype", {"int3", "F32", "int4 "}, 1, {"dtype", "int4"});
  ExpectRefused("--group", {"1", "-1", "33", "2147483647"}, 1, {"group", "128"});
  ExpectRefused("--group", {"x", "1.5"}, 2, {"--group"});
  EXPECT_TRUE(Fails(Generate({"--prompt-ids", "1", "--dtype", "f32", "--group", "32"}), 1,
                    {"group 32", "int4"}));
  ExpectRefused("--device-memory", {"8GiB"}, 1, {"--device-memory", "--device cuda"});
}

TEST_F(BadFlags, WithoutAValue) {
  for (const char* flag : {"--temperature", "--top-k", "--top-p", "--seed", "--max-tokens",
                           "--host-memory", "--device", "--dtype", "--group", "--logit-bias",
                           "--stop-id", "--prompt-ids", "--prompt", "--threads"}) {
    EXPECT_TRUE(Fails(Generate({flag}), 2, {flag, "--help"})) << flag;
    EXPECT_TRUE(Fails(Generate({absl::StrCat(flag, "=")}), 2, {flag, "--help"})) << flag;
  }
}

TEST_F(BadFlags, NoCudaInThisBuild) {
  ExpectRefused("--device", {"cuda"}, 1, {"--device cuda", "no CUDA device", "--device cpu"});
}

TEST_F(BadFlags, Prompts) {
  EXPECT_TRUE(Fails(Generate({}), 1, {"--prompt"}));
  EXPECT_TRUE(Fails(Generate({"--prompt", "hello"}), 1, {"no tokenizer", "--prompt-ids"}));
  for (const char* ids : {",", "1,", ",1", "1,,2", "x", "1;2", "1 2", "-1", "1.5", "0x5",
                          "2147483648", "99999999999999999999", "1,2,\xff"}) {
    EXPECT_TRUE(Fails(Generate({absl::StrCat("--prompt-ids=", ids)}), 1, {"--prompt-ids", "5,6,7"}))
        << ids;
  }
  for (const char* ids : {"1024", "5,2147483647"}) {
    EXPECT_TRUE(Fails(Generate({"--prompt-ids", ids}), 1, {"vocabulary is 0..1023"})) << ids;
  }
  const std::string many = absl::StrJoin(std::vector<int>(513, 7), ",");
  EXPECT_TRUE(Fails(Generate({"--prompt-ids", many}), 1, {"513 tokens", "at most 512"}));
  // One bad prompt among good ones stops all.
  EXPECT_TRUE(Fails(Generate({"--prompt-ids", "1", "--prompt-ids", "1024"}), 1, {"1024"}));
}

TEST_F(BadFlags, OfOtherCommands) {
  const auto plan = [&](const char* flag, const char* value) {
    return Qianyi({"plan", "--config", config_, absl::StrCat(flag, "=", value)});
  };
  for (const char* flag : {"--disk", "--link", "--host-bandwidth", "--device-bandwidth"}) {
    for (const char* value : {"0GB/s", "-1GB/s", "3", "3GB", "nanGB/s", "infGB/s", "x"}) {
      EXPECT_TRUE(Fails(plan(flag, value), 2, {flag, "25GB/s"})) << flag << " " << value;
    }
  }
  for (const char* value : {"0", "-1", "nan", "inf", "1e30", "x"}) {
    EXPECT_TRUE(Fails(plan("--compute", value), 2, {"--compute"})) << value;
    EXPECT_TRUE(Fails(plan("--batch", value), 2, {"--batch"})) << value;
    EXPECT_TRUE(Fails(plan("--context", value), 2, {"--context"})) << value;
  }
  EXPECT_TRUE(Fails(plan("--cpu-rows", "maybe"), 2, {"--cpu-rows", "auto", "off"}));
  EXPECT_TRUE(
      Fails(Qianyi({"synth", "--config", config_, "--seed=-1", temp_ / "out"}), 2, {"--seed"}));
  EXPECT_TRUE(Fails(Qianyi({"synth", "--config", config_, "--dtype", "int5", temp_ / "out"}), 1,
                    {"int5", "int4"}));
  EXPECT_TRUE(Fails(Qianyi({"convert", Fixture("chatglm2"), temp_ / "out", "--group", "7"}), 1,
                    {"group 7", "128"}));
  EXPECT_TRUE(Fails(Qianyi({"convert", Fixture("chatglm2"), temp_ / "out", "--threads", "-1"}), 2,
                    {"--threads"}));
  for (const char* flag :
       {"--chunk=0", "--chunk=x", "--depth=0", "--depth=-1", "--reader=mmap", "--max-bytes=-1"}) {
    EXPECT_TRUE(Fails(Qianyi({"bench", "io", config_, flag}), 2, {"--"})) << flag;
  }
  EXPECT_TRUE(Fails(Qianyi({"bench", "memory", "--threads=-1"}), 2, {"--threads"}));
  EXPECT_TRUE(Fails(Qianyi({"bench", "io", config_, "--chunk=1"}), 1, {"chunk"}));
  EXPECT_TRUE(Fails(Qianyi({"bench", "io", temp_ / "nowhere"}), 1, {"nowhere"}));
  EXPECT_TRUE(Fails(Qianyi({"bench", "io", temp_.path()}), 1, {"folder"}));
  EXPECT_TRUE(Fails(Qianyi({"bench", "io", "/dev/zero"}), 1, {"/dev/zero"}));
  EXPECT_EQ(temp_.Names(), (std::vector<std::string>{"small.json"}));
}

}  // namespace
}  // namespace qianyi::testing
