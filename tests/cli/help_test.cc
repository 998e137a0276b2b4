// What the program says about itself, and of command lines that make no sense.
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/cli/qianyi.h"

namespace qianyi::testing {
namespace {

const Arguments kCommands[] = {
    {"generate"},       {"convert"},        {"synth"},           {"plan"},
    {"verify"},         {"bench", "io"},    {"bench", "memory"}, {"tokenize"},
    {"client", "poem"}, {"client", "chat"}, {"client", "paint"}, {"client", "bench"}};

TEST(Help, OfEveryCommandHasAnExample) {
  for (const Arguments& command : kCommands) {
    const std::string text = Output(command + Arguments{"--help"});
    EXPECT_TRUE(absl::StrContains(text, "Example")) << text;
    EXPECT_TRUE(absl::StrContains(text, "  qianyi " + command[0])) << text;
  }
}

TEST(Help, NamesEveryCommand) {
  const std::string text = Output({"--help"});
  for (const Arguments& command : kCommands) {
    EXPECT_TRUE(absl::StrContains(text, "\n  " + command[0])) << command[0] << "\n" << text;
  }
}

TEST(Help, OfSynthNamesTheBuiltInShapes) {
  const std::string text = Output({"synth", "--help"});
  for (const char* name : {"glm-10b", "glm-4-9b"}) EXPECT_TRUE(absl::StrContains(text, name));
}

TEST(Help, HasTheFlagsOfTheContract) {
  const std::pair<Arguments, std::vector<const char*>> flags[] = {
      {{"generate"},
       {"--model", "--synth", "--prompt", "--prompt-ids", "--max-tokens", "--temperature",
        "--top-k", "--top-p", "--seed", "--host-memory", "--device", "--device-memory"}},
      {{"convert"}, {"SRC", "DST", "--dtype", "--group"}},
      {{"synth"}, {"--config", "--dtype", "OUT", "--seed"}},
      {{"plan"},
       {"--model", "--config", "--dtype", "--host-memory", "--device-memory", "--context",
        "--batch", "--cpu-rows", "--device-bandwidth", "--host-bandwidth", "--link", "--disk",
        "--compute", "--json"}},
      {{"verify"}, {"FOLDER", "--only"}},
      {{"bench", "io"}, {"FILE", "--json"}},
      {{"bench", "memory"}, {"--threads", "--json"}},
      {{"tokenize"}, {"--model", "TEXT", "--decode"}}};
  for (const auto& [command, names] : flags) {
    const std::string text = Output(command + Arguments{"--help"});
    for (const char* name : names) {
      EXPECT_TRUE(absl::StrContains(text, name)) << command[0] << " " << name;
    }
  }
}

TEST(Help, VersionIsOneLine) {
  const std::string text = Output({"--version"});
  EXPECT_TRUE(absl::StartsWith(text, "qianyi ")) << text;
  EXPECT_EQ(text.find('\n'), text.size() - 1);
}

TEST(CommandLine, WithoutAKnownCommandIsRefused) {
  EXPECT_TRUE(Fails(Qianyi({}), 2, {"no command given", "--help"}));
  EXPECT_TRUE(Fails(Qianyi({"conjure"}), 2, {"conjure", "--help"}));
  EXPECT_TRUE(Fails(Qianyi({"--conjure"}), 2, {"--conjure", "--help"}));
  EXPECT_TRUE(Fails(Qianyi({"bench"}), 2, {"bench --help"}));
  EXPECT_TRUE(Fails(Qianyi({"bench", "conjure"}), 2, {"--help"}));
}

TEST(CommandLine, NamesWhatIsMissingOrUnknown) {
  EXPECT_TRUE(Fails(Qianyi({"convert"}), 2, {"SRC", "convert --help"}));
  EXPECT_TRUE(Fails(Qianyi({"convert", "from"}), 2, {"DST"}));
  EXPECT_TRUE(Fails(Qianyi({"synth", "out"}), 2, {"--config"}));
  EXPECT_TRUE(Fails(Qianyi({"verify"}), 2, {"FOLDER"}));
  EXPECT_TRUE(Fails(Qianyi({"bench", "io"}), 2, {"FILE"}));
  EXPECT_TRUE(Fails(Qianyi({"tokenize", "hello"}), 2, {"--model"}));
  EXPECT_TRUE(Fails(Qianyi({"tokenize", "--model", "x"}), 2, {"TEXT", "--decode"}));
  EXPECT_TRUE(Fails(Qianyi({"tokenize", "--model", "x", "hello", "--decode", "1"}), 2, {"TEXT"}));
  EXPECT_TRUE(Fails(Qianyi({"generate", "--conjure"}), 2, {"--conjure"}));
  EXPECT_TRUE(Fails(Qianyi({"plan", "--config", "glm-10b", "--batch"}), 2, {"--batch"}));
  EXPECT_TRUE(
      Fails(Qianyi({"generate", "--model", "a", "--synth", "b"}), 2, {"--model", "--synth"}));
  EXPECT_TRUE(Fails(Qianyi({"generate", "--prompt-ids", "1"}), 1, {"--model"}));
  EXPECT_TRUE(Fails(Qianyi({"plan"}), 1, {"--model"}));
}

}  // namespace
}  // namespace qianyi::testing
