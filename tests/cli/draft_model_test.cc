// A small model that runs ahead of a large one: the same tokens, and sentences for
// pairs that do not go together.
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/cli/qianyi.h"

namespace qianyi::testing {
namespace {

class DraftModel : public ::testing::TestWithParam<Family> {
 protected:
  // A folder of invented weights; `change` edits the shape.
  template <typename Change>
  std::string Synth(const std::string& name, const char* dtype, Change change) {
    nlohmann::json config = nlohmann::json::parse(SmallConfig(GetParam()));
    change(config);
    WriteText(temp_ / (name + ".json"), config.dump());
    Output({"synth", "--config", temp_ / (name + ".json"), "--dtype", dtype, "--seed", "5",
            temp_ / name});
    return temp_ / name;
  }
  std::string Synth(const std::string& name, const char* dtype) {
    return Synth(name, dtype, [](nlohmann::json&) {});
  }
  Arguments Generate(const Arguments& more) {
    const bool blanks = GetParam() == Family::kBlockLm;
    return Arguments{"generate",
                     "--model",
                     large_,
                     "--prompt-ids",
                     blanks ? "5,6,1004,7,8,1005" : "5,6,7,8",
                     "--prompt-ids",
                     blanks ? "9,10,1005" : "9,10",
                     "--max-tokens",
                     "30",
                     "--ignore-end",
                     "--seed",
                     "3"} +
           more;
  }

  TempFolder temp_;
  const std::string large_ = Synth("large", "int8");
};

TEST_P(DraftModel, TheSameTokensInNoMoreSteps) {
  const std::string draft = Synth("draft", "int4"), stats = temp_ / "stats.json";
  for (const char* temperature : {"0", "0.7"}) {
    // One after the other: else the second prompt is read a step after the first, or is not.
    const Arguments flags = {"--temperature", temperature, "--stats", stats,
                             "--quiet",       "--batch",   "1"};
    const std::string expected = Output(Generate(flags + Arguments{"--guesses", "0"}));
    const auto plain = nlohmann::json::parse(ReadText(stats));
    EXPECT_EQ(Output(Generate(flags + Arguments{"--draft-model", draft})), expected);
    const auto drafted = nlohmann::json::parse(ReadText(stats));
    // How far it runs ahead follows from what it costs here, which a model this small hides in.
    EXPECT_GT(drafted["guessed_tokens"], 0);
    EXPECT_EQ(plain["guessed_tokens"], 0);
    EXPECT_LE(drafted["steps"], plain["steps"]);
    EXPECT_EQ(drafted["generated_tokens"], plain["generated_tokens"]);
  }
}

TEST_P(DraftModel, BothFitTheBudget) {
  const std::string draft = Synth("draft", "int4"), stats = temp_ / "stats.json";
  const Arguments flags = {"--draft-model", draft, "--quiet"};
  const uint64_t least = LeastHostMiB(Generate(flags));
  EXPECT_GT(least, LeastHostMiB(Generate({"--quiet"})));
  Output(Generate(flags +
                  Arguments{"--host-memory", absl::StrCat(least + 2, "MiB"), "--stats", stats}));
  EXPECT_LE(nlohmann::json::parse(ReadText(stats))["peak_resident_bytes"], (least + 2) << 20);
}

TEST_P(DraftModel, OthersAreRefusedByName) {
  const bool blanks = GetParam() == Family::kBlockLm;
  const std::string words = Synth("words", "int4", [&](nlohmann::json& config) {
    config[blanks ? "vocab_size" : "padded_vocab_size"] = 1088;
  });
  const std::string small = Synth("positions", "int4", [&](nlohmann::json& config) {
    config[blanks ? "max_sequence_length" : "seq_length"] = 32;
  });
  const auto refused = [&](const std::string& folder, const std::vector<std::string>& said) {
    return Fails(Qianyi(Generate({"--draft-model", folder})), 1, said);
  };
  EXPECT_TRUE(refused(words, {"--draft-model", words, "1088", "1024", "vocabulary"}));
  EXPECT_TRUE(refused(small, {"--draft-model", small, "positions", "lower --context"}));
  EXPECT_TRUE(refused(temp_ / "nowhere", {"--draft-model", "nowhere"}));
}

INSTANTIATE_TEST_SUITE_P(Families, DraftModel,
                         ::testing::Values(Family::kChatGlm2, Family::kBlockLm),
                         [](const auto& test) {
                           return test.param == Family::kBlockLm ? "blanks" : "causal";
                         });

// The family decides how prompts with blanks are laid out.
TEST(DraftModelTest, AnotherFamilyIsRefused) {
  const TempFolder temp;
  const std::string config = WriteConfig(temp, Family::kChatGlm2);
  Output({"synth", "--config", config, "--dtype", "int4", temp / "draft"});
  const std::string blanks = temp / "blanks.json";
  WriteText(blanks, SmallConfig(Family::kBlockLm));
  EXPECT_TRUE(Fails(Qianyi({"generate", "--synth", blanks, "--prompt-ids", "5,6,1005",
                            "--draft-model", temp / "draft"}),
                    1, {"--draft-model", "chatglm2", "glm-blocklm"}));
}

}  // namespace
}  // namespace qianyi::testing
