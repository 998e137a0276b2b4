// The promise of the whole program: a request's tokens depend on the model, the prompt and the
// sampling alone. Not on what else is in its batch, how its prompt was split, where the weights
// live, or how many threads compute.
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gtest/gtest.h"
#include "tests/cli/qianyi.h"

namespace qianyi::testing {
namespace {

constexpr int kOthers = 16;

// Token ids that look like nothing in particular; those of GLM get a blank inside and one behind.
std::string PromptIds(Family family, int number, int length) {
  std::vector<int> ids;
  for (int i = 0; i < length; ++i) ids.push_back((number * 131 + i * (37 + number) + 11) % 990 + 3);
  if (family == Family::kBlockLm && length > 6) {
    ids[2] = 1004;
    ids.back() = 1005;
  }
  return absl::StrJoin(ids, ",");
}

std::string FirstLine(const std::string& text) { return text.substr(0, text.find('\n') + 1); }

using Case = std::tuple<Family, const char*, bool>;  // dtype; whether tokens are drawn

class SameTokens : public ::testing::TestWithParam<Case> {
 protected:
  SameTokens() : folder_("model") {
    const auto [family, dtype, drawn] = GetParam();
    const std::string config = WriteConfig(temp_, family);
    Output({"synth", "--config", config, "--dtype", dtype, "--seed", "5", temp_ / folder_});
    invented_ = {"--synth", config, "--dtype", dtype, "--synth-seed", "5"};
    stored_ = {"--model", temp_ / folder_};
    settings_ =
        drawn ? Arguments{"--temperature", "1", "--top-k", "40", "--top-p", "0.95", "--seed", "42"}
              : Arguments{"--temperature", "0"};
    settings_ = settings_ + Arguments{"--max-tokens", "8", "--ignore-end", "--quiet"};
    ours_ = {"--prompt-ids", PromptIds(family, 0, 23)};
    for (int i = 1; i <= kOthers; ++i) {
      others_ = others_ + Arguments{"--prompt-ids", PromptIds(family, i, 1 + 7 * i % 33)};
    }
  }

  std::string Generate(const Arguments& model, const Arguments& more) {
    return Output(Arguments{"generate"} + model + settings_ + more);
  }

  // In the least memory that is enough, so that the weights really stream, more than once. What
  // the program itself takes varies a little from run to run: `least_mib` may be off by as much
  // as a small model has weights.
  std::string GenerateStreaming(const Arguments& model, const Arguments& more, uint64_t least_mib) {
    const std::string stats = temp_ / "stats.json";
    const Arguments command = Arguments{"generate"} + model + settings_ + more;
    for (uint64_t host_mib = least_mib - 2; host_mib <= least_mib + 2; ++host_mib) {
      const ProcessResult result = Qianyi(
          command + Arguments{"--host-memory", absl::StrCat(host_mib, "MiB"), "--stats", stats});
      if (result.exit_code != 0) {
        EXPECT_TRUE(Fails(result, 1, {"needs at least"}));
        continue;
      }
      const nlohmann::json report = nlohmann::json::parse(ReadText(stats), nullptr, false);
      const uint64_t streamed = report.value("streamed_weight_bytes", 0);
      const uint64_t resident = report.value("resident_weight_bytes", 0);
      EXPECT_GT(streamed, 0u) << "nothing streamed with " << host_mib << " MiB";
      EXPECT_GT(report.value("read_bytes", 0u), resident + 3 * streamed);
      return result.out;
    }
    ADD_FAILURE() << "about " << least_mib << " MiB were said to be enough";
    return "";
  }

  uint64_t LeastMiB(const Arguments& more) {
    return LeastHostMiB(Arguments{"generate"} + stored_ + settings_ + more);
  }

  TempFolder temp_;
  std::string folder_;
  Arguments invented_, stored_, settings_, ours_, others_;
};

TEST_P(SameTokens, AloneOrAmongOthers) {
  const std::string alone = Generate(stored_, ours_);
  EXPECT_GT(alone.size(), 20u);
  const std::string all = Generate(stored_, ours_ + others_);
  EXPECT_EQ(FirstLine(all), alone);
  // Fewer places than prompts: most wait for one that ends.
  EXPECT_EQ(Generate(stored_, ours_ + others_ + Arguments{"--batch", "3"}), all);
  // The others are not disturbed either, whoever comes last.
  const std::string last = Generate(stored_, others_ + ours_);
  EXPECT_EQ(last, all.substr(alone.size()) + alone);
}

TEST_P(SameTokens, SplitOrWhole) {
  const std::string whole = Generate(stored_, ours_ + others_);
  EXPECT_EQ(Generate(stored_, ours_ + others_ + Arguments{"--step-tokens", "7"}), whole);
  EXPECT_EQ(Generate(stored_, ours_ + Arguments{"--step-tokens", "1"}), FirstLine(whole));
}

TEST_P(SameTokens, OneThreadOrTwo) {
  const std::string one = Generate(stored_, ours_ + others_ + Arguments{"--threads", "1"});
  EXPECT_EQ(Generate(stored_, ours_ + others_ + Arguments{"--threads", "2"}), one);
  EXPECT_EQ(Generate(stored_, ours_ + others_ + Arguments{"--threads", "3"}), one);
}

TEST_P(SameTokens, ResidentOrStreamed) {
  const std::string resident = Generate(stored_, ours_);
  const uint64_t least = LeastMiB(ours_);
  EXPECT_EQ(GenerateStreaming(stored_, ours_, least), resident);
  EXPECT_EQ(GenerateStreaming(invented_, ours_, least), resident);
  // A part of the weights stays, evenly spaced among those that move.
  const Arguments roomier = {"--host-memory", absl::StrCat(least + 1, "MiB")};
  EXPECT_EQ(Generate(stored_, ours_ + roomier), resident);
}

TEST_P(SameTokens, FromAFolderOrInvented) {
  const std::string stored = Generate(stored_, ours_);
  EXPECT_EQ(Generate(invented_, ours_), stored);
  Arguments other_seed = invented_;
  other_seed.back() = "6";
  EXPECT_NE(Generate(other_seed, ours_), stored);
}

TEST_P(SameTokens, EverythingAtOnce) {
  const std::string plain = Generate(stored_, ours_ + others_);
  const Arguments mixed =
      ours_ + others_ + Arguments{"--batch", "5", "--step-tokens", "7", "--threads", "1"};
  const uint64_t least = LeastMiB(mixed);
  EXPECT_EQ(GenerateStreaming(stored_, mixed, least), plain);
  EXPECT_EQ(FirstLine(plain), Generate(stored_, ours_));
}

std::string CaseName(const ::testing::TestParamInfo<Case>& of) {
  const auto [family, dtype, drawn] = of.param;
  return absl::StrCat(family == Family::kChatGlm2 ? "chatglm2" : "blocklm", "_", dtype,
                      drawn ? "_drawn" : "_greedy");
}

std::vector<Case> Cases() {
  std::vector<Case> cases;
  for (const Family family : {Family::kChatGlm2, Family::kBlockLm}) {
    cases.insert(cases.end(), {{family, "f32", false},
                               {family, "f16", true},
                               {family, "bf16", false},
                               {family, "int8", true},
                               {family, "int4", false},
                               {family, "int4", true}});
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Models, SameTokens, ::testing::ValuesIn(Cases()), CaseName);

// The seed decides, and nothing else does.
TEST(Seeds, DrawTheSameTokensOrOthers) {
  TempFolder temp;
  const Arguments base = {"generate",     "--synth",      WriteConfig(temp, Family::kChatGlm2),
                          "--quiet",      "--prompt-ids", "5,6,7",
                          "--max-tokens", "24",           "--ignore-end",
                          "--seed"};
  const std::string first = Output(base + Arguments{"1"});
  EXPECT_EQ(Output(base + Arguments{"1"}), first);
  EXPECT_NE(Output(base + Arguments{"2"}), first);
  EXPECT_NE(Output(base + Arguments{"18446744073709551615"}), first);
}

}  // namespace
}  // namespace qianyi::testing
