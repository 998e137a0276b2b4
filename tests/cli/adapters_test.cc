// Adapters on the command line, over the fixtures' own model and expected tokens.
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gtest/gtest.h"
#include "tests/cli/qianyi.h"

namespace qianyi::testing {
namespace {

// A prompt of a fixture and the tokens that its adapter gives.
struct Expected {
  std::string prompt, tokens;
};
Expected Of(const nlohmann::json& fields) {
  return {absl::StrJoin(fields["prompt_ids"].get<std::vector<int>>(), ","),
          absl::StrJoin(fields["greedy_tokens"].get<std::vector<int>>(), ",") + "\n"};
}

class AdaptersCommand : public ::testing::Test {
 protected:
  AdaptersCommand() {
    Output({"convert", Fixture("chatglm2"), temp_ / "model", "--dtype", "f32"});
    // Two prefixes in one folder would be one too many.
    CopyFolder(Fixture("ptuning-v2/chatglm2"), temp_ / "prefix");
    WriteText(temp_ / "prefix/prefix_encoder.safetensors", SafetensorsText({}));
    const auto cases = [](const std::string& folder) {
      return nlohmann::json::parse(ReadText(Fixture(folder) + "/cases.json"));
    };
    lora_ = Of(cases("lora")["cases"][0]);
    prefix_ = Of(cases("ptuning-v2/chatglm2")["variants"][1]["cases"][0]);
    base_ = Of(cases("chatglm2")["cases"][0]);
    both_ = {"--adapter", "lora=" + Fixture("lora"), "--adapter", "prefix=" + temp_ / "prefix"};
  }
  ProcessResult Generate(const Arguments& more) {
    return Qianyi(Arguments{"generate", "--model", temp_ / "model", "--temperature", "0",
                            "--max-tokens", "16", "--ignore-end", "--quiet"} +
                  more);
  }

  TempFolder temp_;
  Expected lora_, prefix_, base_;
  Arguments both_;
};

TEST_F(AdaptersCommand, PromptsRunWithTheirAdaptersInOneBatch) {
  const ProcessResult one =
      Generate({"--adapter", "x=" + Fixture("lora"), "--prompt-ids", lora_.prompt});
  EXPECT_EQ(one.out, lora_.tokens) << one.err;
  const ProcessResult all =
      Generate(both_ + Arguments{"--prompt-ids", prefix_.prompt, "--use", "prefix", "--prompt-ids",
                                 lora_.prompt, "--use", "lora"});
  EXPECT_EQ(all.out, prefix_.tokens + lora_.tokens) << all.err;
  const ProcessResult plain = Generate(both_ + Arguments{"--prompt-ids", base_.prompt});
  EXPECT_TRUE(Fails(plain, 1, {"--use"}));
  const ProcessResult none =
      Generate(both_ + Arguments{"--prompt-ids", base_.prompt, "--use", "-"});
  // Of the model alone there are more tokens than these 16.
  ASSERT_GT(none.out.size(), 16u) << none.err;
  EXPECT_EQ(base_.tokens.substr(0, none.out.size() - 1), none.out.substr(0, none.out.size() - 1));
}

TEST_F(AdaptersCommand, MistakesAreNamed) {
  const Arguments prompt = {"--prompt-ids", lora_.prompt};
  const auto refused = [&](const Arguments& more, const std::vector<std::string>& words) {
    EXPECT_TRUE(Fails(Generate(prompt + more), 1, words)) << absl::StrJoin(more, " ");
  };
  refused({"--adapter", "lora"}, {"--adapter", "NAME=DIR"});
  refused({"--adapter", "=x"}, {"NAME=DIR"});
  refused({"--adapter", "x=" + temp_ / "nothing"}, {"adapter x", "nothing"});
  refused({"--adapter", "x=" + temp_ / "model"}, {"adapter x", "is no adapter"});
  refused({"--adapter", "a b=" + Fixture("lora")}, {"'a b'"});
  refused(both_ + Arguments{"--use", "other"}, {"'other'", "lora, prefix"});
  refused(both_ + Arguments{"--use", "lora", "--use", "prefix"}, {"--use", "2 times for 1"});
  refused(both_ + Arguments{"--adapter", "lora=" + Fixture("lora"), "--use", "lora"},
          {"'lora' is loaded already"});
}

}  // namespace
}  // namespace qianyi::testing
