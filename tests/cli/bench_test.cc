// What this machine's disk and memory give, as the program says it.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "tests/cli/qianyi.h"

namespace qianyi::testing {
namespace {

TEST(Bench, ReadsAFile) {
  const std::string file = Fixture("chatglm2") + "/weights.safetensors";
  const auto report = OutputJson({"bench", "io", file, "--json"});
  EXPECT_EQ(report.at("file"), file);
  EXPECT_GT(report.at("bytes").get<double>(), 0);
  EXPECT_GT(report.at("gb_per_second").get<double>(), 0);
}

TEST(Bench, ReadsMemoryWithAsManyThreadsAsAsked) {
  const auto report = OutputJson({"bench", "memory", "--threads", "1", "--json"});
  EXPECT_EQ(report.at("threads"), 1);
  // No memory is slower, and a loop that the compiler left out would be far faster.
  EXPECT_GT(report.at("gb_per_second").get<double>(), 0.01);
  EXPECT_LT(report.at("gb_per_second").get<double>(), 2000);
}

// A model that streams, with the figures of a machine that has been measured.
class BenchDecode : public ::testing::TestWithParam<Family> {
 protected:
  Arguments Command(const Arguments& more) const {
    return Arguments{"bench",  "decode",           "--synth", WriteConfig(temp_, GetParam()),
                     "--json", "--host-bandwidth", "30GB/s",  "--compute",
                     "3e11"} +
           more;
  }
  TempFolder temp_;
};

TEST_P(BenchDecode, PutsPredictionAndTruthSideBySide) {
  for (const char* batch : {"1", "5"}) {
    const auto report = OutputJson(Command({"--batch", batch, "--tokens", "6"}));
    EXPECT_EQ(report.at("batch"), std::atoi(batch));
    const auto &predicted = report.at("predicted"), &measured = report.at("measured");
    EXPECT_EQ(measured.at("steps"), 5);
    EXPECT_GT(predicted.at("step_seconds").get<double>(), 0);
    EXPECT_GT(measured.at("step_seconds").get<double>(), 0);
    EXPECT_NEAR(
        report.at("over_bound").get<double>(),
        measured.at("step_seconds").get<double>() / predicted.at("step_seconds").get<double>(),
        1e-3 * report.at("over_bound").get<double>());
    EXPECT_NEAR(measured.at("tokens_per_second").get<double>(),
                std::atoi(batch) / measured.at("step_seconds").get<double>(),
                1e-3 * measured.at("tokens_per_second").get<double>());
    EXPECT_GT(measured.at("prompt_tokens_per_second").get<double>(), 0);
    EXPECT_EQ(report.at("rates").at("host_bandwidth"), 30e9);
  }
}

TEST_P(BenchDecode, MorePromptsThanAStepHolds) {
  const auto report = OutputJson(
      Command({"--batch", "4", "--prompt-tokens", "24", "--step-tokens", "24", "--tokens", "12"}));
  EXPECT_EQ(report.at("measured").at("steps"), 11);
}

INSTANTIATE_TEST_SUITE_P(Families, BenchDecode,
                         ::testing::Values(Family::kChatGlm2, Family::kBlockLm));

// What is read from a disk by a step is what the plan says.
TEST(Bench, DecodeOfAFileThatStreams) {
  const TempFolder temp;
  setenv("XDG_CACHE_HOME", std::string(temp / "cache").c_str(), 1);
  const std::string model = temp / "model";
  Output({"synth", "--config", WriteConfig(temp, Family::kChatGlm2), "--dtype", "int4", model});
  const Arguments command = {"bench", "decode", "--model", model, "--json", "--tokens", "8"};
  const std::string memory = std::to_string(LeastHostMiB(command)) + "MiB";
  const Arguments streaming = command + Arguments{"--host-memory", memory};
  const ProcessResult first = Qianyi(streaming);
  ASSERT_EQ(first.exit_code, 0) << first.err;
  const auto report = nlohmann::json::parse(first.out);
  EXPECT_GT(report.at("predicted").at("read_bytes").get<double>(), 0);
  EXPECT_NEAR(report.at("measured").at("read_bytes").get<double>(),
              report.at("predicted").at("read_bytes").get<double>(),
              0.5 * report.at("predicted").at("read_bytes").get<double>());
  // What was measured is remembered.
  EXPECT_TRUE(std::filesystem::exists(temp / "cache/qianyi/rates.json"));
  const ProcessResult again = Qianyi(streaming);
  ASSERT_EQ(again.exit_code, 0) << again.err;
  EXPECT_EQ(nlohmann::json::parse(again.out).at("rates"), report.at("rates"));
  EXPECT_NE(again.err.find("--measure"), std::string::npos) << again.err;
  unsetenv("XDG_CACHE_HOME");
}

}  // namespace
}  // namespace qianyi::testing
