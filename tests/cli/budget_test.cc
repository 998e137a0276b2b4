// Everything the process takes stays within --host-memory, and the tokens are the same.
#include <string>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/cli/qianyi.h"

namespace qianyi::testing {
namespace {

constexpr uint64_t kMiB = 1 << 20;

class Budget : public ::testing::Test {
 protected:
  ProcessResult Run(const Arguments& model, const std::string& host_memory) {
    return Qianyi(generate_ + model +
                  Arguments{"--host-memory", host_memory, "--stats", temp_ / "stats.json"});
  }

  TempFolder temp_;
  const Arguments generate_ = {"generate", "--prompt-ids", "50002,7,50009", "--max-tokens",
                               "4",        "--quiet"};
  // 190 MiB of weights, invented as they are read.
  const Arguments invented_ = {"--synth", "glm-large-chinese", "--dtype", "int4"};
};

TEST_F(Budget, AModelLargerThanItStaysWithinIt) {
  const std::string folder = temp_ / "model";
  Output({"synth", "--config", "glm-large-chinese", "--dtype", "int4", folder});
  const Arguments stored = {"--model", folder};
  const ProcessResult resident = Run(stored, "2GiB");
  ASSERT_EQ(resident.exit_code, 0) << resident.err;
  const uint64_t budget = (LeastHostMiB(generate_ + stored) + 30) * kMiB;
  const ProcessResult streamed = Run(stored, absl::StrCat(budget));
  ASSERT_EQ(streamed.exit_code, 0) << streamed.err;
  EXPECT_EQ(streamed.out, resident.out);
  const nlohmann::json stats = nlohmann::json::parse(ReadText(temp_ / "stats.json"));
  const uint64_t per_step = stats["streamed_weight_bytes"];
  EXPECT_GT(per_step, 40 * kMiB);
  EXPECT_GT(stats["read_bytes"].get<uint64_t>(), 2 * per_step);
  EXPECT_LE(stats["planned_host_bytes"].get<uint64_t>(), budget);
  const ProcessResult invented = Run(invented_, absl::StrCat(budget));
  EXPECT_EQ(invented.out, resident.out) << invented.err;
  // A sanitizer's own memory is not the program's.
  if (!kSanitized) {
    EXPECT_LE(streamed.peak_resident_bytes, budget);
    EXPECT_LE(invented.peak_resident_bytes, budget);
    // It is used, not merely kept.
    EXPECT_GT(streamed.peak_resident_bytes, budget / 2);
  }
}

TEST_F(Budget, TooSmallSaysWhatWouldDoAndThatDoes) {
  const uint64_t least = LeastHostMiB(generate_ + invented_);
  EXPECT_TRUE(Fails(Run(invented_, absl::StrCat(least - 8, "MiB")), 1,
                    {"does not fit", "needs at least", "MiB of RAM", "--context", "--batch"}));
  const ProcessResult result = Run(invented_, absl::StrCat(least, "MiB"));
  EXPECT_EQ(result.exit_code, 0) << result.err;
  if (!kSanitized) {
    EXPECT_LE(result.peak_resident_bytes, least * kMiB);
  }
}

TEST_F(Budget, CountsCacheAndBatch) {
  const uint64_t one = LeastHostMiB(generate_ + invented_ + Arguments{"--context", "16"});
  const uint64_t many =
      LeastHostMiB(generate_ + invented_ + Arguments{"--context", "1024", "--batch", "8"});
  // 24 layers x (1024 keys + 1024 values) x 2 bytes = 96 KiB a token.
  EXPECT_GT(many, one + (8 * 1024 - 16) * 96 / 1024);
  EXPECT_LT(many, one + (8 * 1024 - 16) * 96 / 1024 + 200);
}

}  // namespace
}  // namespace qianyi::testing
