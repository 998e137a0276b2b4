// What this machine's disk and memory give, as the program says it.
#include <gtest/gtest.h>

#include "tests/cli/qianyi.h"

namespace qianyi::testing {
namespace {

TEST(Bench, ReadsAFile) {
  const std::string file = Fixture("chatglm2") + "/weights.safetensors";
  const auto json = OutputJson({"bench", "io", file, "--json"});
  EXPECT_EQ(json.at("file"), file);
  EXPECT_GT(json.at("bytes").get<double>(), 0);
  EXPECT_GT(json.at("gb_per_second").get<double>(), 0);
}

TEST(Bench, ReadsMemoryWithAsManyThreadsAsAsked) {
  const auto json = OutputJson({"bench", "memory", "--threads", "1", "--json"});
  EXPECT_EQ(json.at("threads"), 1);
  // No memory is slower, and a loop that the compiler left out would be far faster.
  EXPECT_GT(json.at("gb_per_second").get<double>(), 0.01);
  EXPECT_LT(json.at("gb_per_second").get<double>(), 2000);
}

}  // namespace
}  // namespace qianyi::testing
