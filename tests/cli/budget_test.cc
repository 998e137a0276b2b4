// Everything the process takes stays within --host-memory, and the tokens are the same.
#include <string>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/cli/qianyi.h"

namespace qianyi::testing {
namespace {

constexpr uint64_t kMiB = 1 << 20;

TEST(Budget, AModelLargerThanItStaysWithinIt) {
  const TempFolder temp;
  const std::string model = temp / "model";
  // 190 MiB of weights.
  Output({"synth", "--config", "glm-large-chinese", "--dtype", "int4", model});
  const Arguments generate = {"generate",      "--model",      model, "--prompt-ids",
                              "50002,7,50009", "--max-tokens", "4",   "--quiet"};
  const std::string resident = Output(generate + Arguments{"--host-memory", "2GiB"});
  const uint64_t budget = (LeastHostMiB(generate) + 30) * kMiB;
  const std::string stats = temp / "stats.json";
  const ProcessResult streamed =
      Qianyi(generate + Arguments{"--host-memory", absl::StrCat(budget), "--stats", stats});
  ASSERT_EQ(streamed.exit_code, 0) << streamed.err;
  EXPECT_EQ(streamed.out, resident);
  const nlohmann::json json = nlohmann::json::parse(ReadText(stats));
  EXPECT_GT(json["streamed_weight_bytes"].get<uint64_t>(), 40 * kMiB);
  EXPECT_LE(json["planned_host_bytes"].get<uint64_t>(), budget);
  // A sanitizer's own memory is not the program's.
  if (!kSanitized) {
    EXPECT_LE(streamed.peak_resident_bytes, budget);
  }
}

}  // namespace
}  // namespace qianyi::testing
