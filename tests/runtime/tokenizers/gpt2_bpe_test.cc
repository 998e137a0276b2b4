#include "runtime/tokenizers/gpt2_bpe.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "nlohmann/json.hpp"
#include "runtime/tokenizers/utf8.h"
#include "tests/support/paths.h"

namespace qianyi {
namespace {

using Ids = std::vector<int32_t>;
using Merges = std::vector<std::pair<std::string, std::string>>;

const Gpt2Bpe& English() {
  static const std::unique_ptr<Gpt2Bpe> bpe =
      *Gpt2Bpe::Open(qianyi::testing::FixturePath("tokenizers/gpt2-vocab.json"),
                     qianyi::testing::FixturePath("tokenizers/gpt2-merges.txt"));
  return *bpe;
}

Ids Encode(const Gpt2Bpe& bpe, const std::string& text) {
  Ids ids;
  EXPECT_TRUE(bpe.Encode(text, &ids).ok());
  return ids;
}

std::string Bytes(const Gpt2Bpe& bpe, const Ids& ids) {
  std::string bytes;
  bool run_start = true;
  for (const int32_t id : ids) bytes += bpe.Bytes(id, &run_start);
  return bytes;
}

// The original's way: merge all occurrences of the best pair, then look again.
Ids Naive(const std::map<std::string, int32_t>& vocabulary, const Merges& merges,
          const std::string& word) {
  std::map<std::pair<std::string, std::string>, size_t> ranks;
  for (size_t i = 0; i < merges.size(); ++i) ranks[merges[i]] = i;
  std::vector<std::string> symbols;
  for (const char c : word) symbols.emplace_back(1, c);
  while (true) {
    auto best = ranks.end();
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      const auto at = ranks.find({symbols[i], symbols[i + 1]});
      if (at != ranks.end() && (best == ranks.end() || at->second < best->second)) best = at;
    }
    if (best == ranks.end()) break;
    std::vector<std::string> merged;
    for (size_t i = 0; i < symbols.size(); ++i) {
      if (i + 1 < symbols.size() && std::pair(symbols[i], symbols[i + 1]) == best->first) {
        merged.push_back(symbols[i] + symbols[i + 1]);
        ++i;
      } else {
        merged.push_back(symbols[i]);
      }
    }
    symbols = merged;
  }
  Ids ids;
  for (const std::string& symbol : symbols) {
    const auto at = vocabulary.find(symbol);
    ids.push_back(at == vocabulary.end() ? 0 : at->second);
  }
  return ids;
}

// Random merges, in any order, repeated and unreachable ones among them.
TEST(Gpt2Bpe, MergesAsTheOriginalDoesWhateverTheTable) {
  std::mt19937 random(7);
  for (int round = 0; round < 400; ++round) {
    std::vector<std::string> known = {"a", "b", "c"};
    Merges merges;
    std::string file = "#version: 0.2\n";
    const size_t count = random() % 14;
    for (size_t i = 0; i < count; ++i) {
      const std::string left = known[random() % known.size()];
      const std::string right = known[random() % known.size()];
      merges.emplace_back(left, right);
      known.push_back(left + right);
    }
    if (round % 2 == 0) std::shuffle(merges.begin(), merges.end(), random);
    for (const auto& [left, right] : merges) file += left + " " + right + "\n";
    std::map<std::string, int32_t> vocabulary;
    for (const std::string& symbol : known) {
      if (random() % 8 != 0)
        vocabulary.emplace(symbol, static_cast<int32_t>(vocabulary.size()) + 1);
    }
    vocabulary.emplace("zero", 0);
    const auto bpe = Gpt2Bpe::Parse(nlohmann::json(vocabulary).dump(), file, "v", "m");
    ASSERT_TRUE(bpe.ok()) << bpe.status();
    for (int text = 0; text < 10; ++text) {
      std::string word(1 + random() % 24, 'a');
      for (char& c : word) c = static_cast<char>('a' + random() % 3);
      ASSERT_EQ(Encode(**bpe, word), Naive(vocabulary, merges, word)) << file << word;
    }
  }
}

TEST(Gpt2Bpe, BytesOfAllIdsGiveTheTextBack) {
  std::mt19937 random(11);
  for (int round = 0; round < 300; ++round) {
    std::string text;
    for (size_t n = random() % 40; n > 0; --n) {
      char32_t c = random() % (random() % 2 ? 0x80 : 0x20000);
      if (c >= 0xD800 && c < 0xE000) c = 'x';
      AppendCharacter(c, &text);
    }
    ASSERT_EQ(Bytes(English(), Encode(English(), text)), text);
  }
}

TEST(Gpt2Bpe, LongWordsTakeNoQuadraticTime) {
  const auto seconds = [](const std::string& text) {
    const auto start = std::chrono::steady_clock::now();
    const Ids ids = Encode(English(), text);
    EXPECT_EQ(Bytes(English(), ids), text);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  // Quadratic time for a megabyte would be hours; the limit leaves room for sanitizers.
  std::string characters;
  for (int i = 0; i < (1 << 20) / 3; ++i) characters += "\xE4\xB8\xAD";
  EXPECT_LT(seconds(std::string(1 << 20, 'a')), 60);
  EXPECT_LT(seconds(characters), 60);
  EXPECT_LT(seconds(std::string(1 << 20, ' ') + "x"), 60);
  EXPECT_LT(seconds(std::string(1 << 20, '!')), 60);
}

TEST(Gpt2Bpe, TokensOutsideTheByteAlphabetStandForThemselves) {
  // U+0120 is the space of the alphabet; U+4E2D is not in it.
  const auto bpe = Gpt2Bpe::Parse(R"({"\u0120a": 0, "\u4e2d": 2})", "", "v", "m");
  ASSERT_TRUE(bpe.ok());
  EXPECT_EQ(Bytes(**bpe, {0, 2}), " a\xE4\xB8\xAD");
  EXPECT_EQ((*bpe)->size(), 3);
  EXPECT_TRUE((*bpe)->Contains(2));
  EXPECT_FALSE((*bpe)->Contains(1));
  EXPECT_FALSE((*bpe)->Contains(-1));
  EXPECT_FALSE((*bpe)->Contains(3));
  EXPECT_EQ(Bytes(**bpe, {1, -1, 3}), "");
}

struct BadFile {
  const char* vocabulary;
  const char* merges;
  const char* message;
};

class Gpt2BpeBadFile : public ::testing::TestWithParam<BadFile> {};

TEST_P(Gpt2BpeBadFile, IsRefusedWithItsName) {
  const auto bpe =
      Gpt2Bpe::Parse(GetParam().vocabulary, GetParam().merges, "vocab.json", "merges.txt");
  ASSERT_EQ(bpe.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(bpe.status().ToString().find(GetParam().message), std::string::npos) << bpe.status();
}

INSTANTIATE_TEST_SUITE_P(
    All, Gpt2BpeBadFile,
    ::testing::Values(BadFile{"", "", "vocab.json: not a JSON object"},
                      BadFile{"[1]", "", "vocab.json: not a JSON object"},
                      BadFile{"{}", "", "vocab.json: not a JSON object"},
                      BadFile{R"({"a": -1})", "", "token \"a\" has the id -1"},
                      BadFile{R"({"a": 1.5})", "", "token \"a\" has the id 1.5"},
                      BadFile{R"({"a": "1"})", "", "token \"a\" has the id string"},
                      BadFile{R"({"a": 99999999999})", "", "has the id 99999999999"},
                      BadFile{R"({"a": 1048576})", "", "integers from 0 to 1048575"},
                      BadFile{R"({"a": 1, "b": 1})", "", "id 1 belongs to two tokens"},
                      BadFile{R"({"a": 1})", "a\n", "merges.txt: line 1 is not two symbols"},
                      BadFile{R"({"a": 1})", "#version\na b c\n", "merges.txt: line 2 is not two"},
                      BadFile{R"({"a": 1})", "a b\n\xFF \xFF\n",
                              "merges.txt: line 2 is not UTF-8"}));

TEST(Gpt2Bpe, MissingFilesAreNotFound) {
  EXPECT_EQ(Gpt2Bpe::Open("/nowhere/vocab.json", "/nowhere/merges.txt").status().code(),
            absl::StatusCode::kNotFound);
}

TEST(Gpt2Bpe, CarriageReturnsAndAMissingLastNewlineDoNotMatter) {
  const char* vocabulary = R"({"a": 0, "b": 1, "ab": 2})";
  for (const char* merges : {"#version: 0.2\na b\n", "#version: 0.2\r\na b\r\n", "a b"}) {
    const auto bpe = Gpt2Bpe::Parse(vocabulary, merges, "v", "m");
    ASSERT_TRUE(bpe.ok());
    EXPECT_EQ(Encode(**bpe, "abb"), (Ids{2, 1}));
  }
}

}  // namespace
}  // namespace qianyi
