// GLM's tokenizers against the libraries that their files belong to;
// scripts/fixtures/glm_tokenizers made the expected ids.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "runtime/tokenizers/added_tokens.h"
#include "runtime/tokenizers/byte_pair_merger.h"
#include "runtime/tokenizers/glm_sentencepiece.h"
#include "runtime/tokenizers/rank_bpe.h"
#include "runtime/tokenizers/sentencepiece_tokenizer.h"
#include "runtime/tokenizers/tokenizer_json.h"
#include "runtime/tokenizers/utf8.h"
#include "runtime/tokenizers/word_scanner.h"
#include "tests/runtime/tokenizers/sentencepiece_file.h"
#include "tests/runtime/tokenizers/sentencepiece_library.h"
#include "tests/support/paths.h"

namespace qianyi {
namespace {

using nlohmann::json;
using Ids = std::vector<int32_t>;
using TokenizerOr = absl::StatusOr<std::unique_ptr<Tokenizer>>;

std::string Fixture(const std::string& name) {
  std::ifstream file(qianyi::testing::FixturePath("glm-tokenizers/" + name), std::ios::binary);
  EXPECT_TRUE(file.good()) << name;
  return {std::istreambuf_iterator<char>(file), {}};
}

const json& Cases() {
  static const json cases = json::parse(Fixture("cases.json"));
  return cases;
}

TokenizerOr OpenRanks(const std::string& file) {
  auto text = ParseRanks(file, "ranks.model");
  if (!text.ok()) return text.status();
  std::vector<AddedToken> specials = Glm4SpecialTokens((*text)->size());
  return AddedTokenTokenizer::Create(*std::move(text), std::move(specials));
}

void ExpectCases(const std::string& name, const TokenizerOr& tokenizer, bool specials) {
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  ASSERT_GT(Cases().at(name).size(), 10u);
  for (const json& entry : Cases().at(name)) {
    const std::string text = entry[0];
    EXPECT_EQ(*(*tokenizer)->Encode(text, specials), entry[1].get<Ids>())
        << name << ": " << entry[0];
  }
}

TEST(WordScannerGlm4, CutsAsTheLibraryDoes) {
  for (const json& entry : Cases().at("words")) {
    std::string_view text = entry[0].get_ref<const std::string&>();
    std::vector<size_t> lengths;
    while (!text.empty()) {
      lengths.push_back(FirstWord(text, WordPattern::kGlm4));
      text.remove_prefix(lengths.back());
    }
    EXPECT_EQ(lengths, entry[1].get<std::vector<size_t>>()) << entry[0];
  }
}

TEST(TokenizerJson, EncodesAsTheLibraryDoes) {
  ExpectCases("tokenizer.json", ParseTokenizerJson(Fixture("tokenizer.json"), "tokenizer.json"),
              /*specials=*/true);
}

TEST(TokenizerJson, WholeWordsComeBeforeMerges) {
  json file = json::parse(Fixture("tokenizer.json"));
  json& model = file["model"];
  model["ignore_merges"] = true;
  json merges = json::array();
  for (size_t i = 0; i < 150; ++i) {
    merges.push_back(model["merges"][i][0].get<std::string>() + " " +
                     model["merges"][i][1].get<std::string>());
  }
  model["merges"] = merges;
  ExpectCases("whole-words", ParseTokenizerJson(file.dump(), "x"), /*specials=*/true);
}

TEST(TokenizerJson, KnowsGpt2sPattern) {
  json file = json::parse(Fixture("tokenizer.json"));
  file["pre_tokenizer"] = {{"type", "ByteLevel"}, {"add_prefix_space", false}};
  ExpectCases("gpt2-pattern", ParseTokenizerJson(file.dump(), "x"), /*specials=*/true);
}

TEST(TokenizerJson, RefusesWhatItLacksByName) {
  const json good = json::parse(Fixture("tokenizer.json"));
  const auto expect = [&](const char* pointer, const json& value, const std::string& message,
                          absl::StatusCode code = absl::StatusCode::kUnimplemented) {
    json file = good;
    file[json::json_pointer(pointer)] = value;
    const auto opened = ParseTokenizerJson(file.dump(), "folder/tokenizer.json");
    ASSERT_FALSE(opened.ok()) << pointer;
    EXPECT_EQ(opened.status().code(), code) << opened.status();
    const std::string error(opened.status().message());
    EXPECT_NE(error.find(message), std::string::npos) << error;
    EXPECT_EQ(error.find("folder/tokenizer.json: "), 0u) << error;
  };
  constexpr auto kBad = absl::StatusCode::kInvalidArgument;
  expect("/pre_tokenizer/pretokenizers/0/pattern/Regex", "\\w+", "\\\\w+");
  expect("/pre_tokenizer/pretokenizers/0/behavior", "MergedWithNext", "MergedWithNext");
  expect("/pre_tokenizer/pretokenizers/1/add_prefix_space", true, "add_prefix_space");
  expect("/pre_tokenizer", {{"type", "Metaspace"}}, "Metaspace");
  expect("/pre_tokenizer", nullptr, "pre_tokenizer is null");
  expect("/normalizer", {{"type", "NFC"}}, "NFC");
  expect("/decoder", {{"type", "Fuse"}}, "Fuse");
  expect("/post_processor", {{"type", "BertProcessing"}}, "BertProcessing");
  expect("/model/type", "WordPiece", "WordPiece");
  expect("/model/byte_fallback", true, "byte_fallback");
  expect("/model/dropout", 0.1, "dropout");
  expect("/model/end_of_word_suffix", "</w>", "end_of_word_suffix");
  expect("/model/merges/3", "x y z", "merge 3", kBad);
  expect("/model/merges/3", json::array({"a"}), "merge 3", kBad);
  expect("/model/vocab/a", -1, "token \"a\" has the id -1", kBad);
  expect("/model/vocab/a", 2000000, "2000000", kBad);
  expect("/model/vocab/a", good["model"]["vocab"]["b"], "two tokens", kBad);
  expect("/added_tokens/0/content", nullptr, "no content", kBad);
  expect("/added_tokens/0/id", "7", "has the id", kBad);
  expect("/added_tokens/0/lstrip", 1, "lstrip", kBad);
  expect("/model/vocab", json::object(), "vocab", kBad);
  json lacking = good["model"]["vocab"];
  lacking.erase("!");
  expect("/model/vocab", lacking, "0x21", kBad);
  EXPECT_FALSE(ParseTokenizerJson("[1", "x").ok());
  EXPECT_FALSE(ParseTokenizerJson("{}", "x").ok());
}

TEST(TokenizerJson, WithoutSpecialsAddedTokensAreText) {
  const auto tokenizer = ParseTokenizerJson(Fixture("tokenizer.json"), "x");
  ASSERT_TRUE(tokenizer.ok());
  for (const char* word : {"<|user|>", "[gMASK]", "<think>", "<tool_call>", "/nothink", "LS"}) {
    const int32_t id = (*tokenizer)->WordId(word);
    ASSERT_GE(id, 0) << word;
    EXPECT_EQ(*(*tokenizer)->Encode(word, true), Ids{id});
    const Ids plain = *(*tokenizer)->Encode(word, false);
    EXPECT_EQ(std::count(plain.begin(), plain.end(), id), 0) << word;
    EXPECT_EQ(*(*tokenizer)->Decode(plain), word);
    EXPECT_EQ((*tokenizer)->TokenBytes(id), word);
  }
  EXPECT_EQ((*tokenizer)->WordId("nobody"), -1);
  EXPECT_EQ((*tokenizer)->CommandId("gMASK"), (*tokenizer)->WordId("[gMASK]"));
}

TEST(RankBpe, EncodesAsTheLibraryDoes) {
  const TokenizerOr tokenizer = OpenRanks(Fixture("ranks.model"));
  ExpectCases("ranks.model", tokenizer, /*specials=*/true);
  ExpectCases("ranks.model plain", tokenizer, /*specials=*/false);
}

TEST(RankBpe, SpecialsFollowInGlm4sOrder) {
  const auto specials = Glm4SpecialTokens(151329);
  ASSERT_EQ(specials.size(), 14u);
  EXPECT_EQ(specials.front().word, "<|endoftext|>");
  EXPECT_EQ(specials[7].word, "<|user|>");
  EXPECT_EQ(specials[7].id, 151336);
  EXPECT_EQ(specials[9].id, 151338);
  EXPECT_EQ(specials.back().id, 151342);
}

TEST(RankBpe, BrokenFilesAreRefusedByLine) {
  const std::string good = Fixture("ranks.model");
  const auto error = [](const std::string& file) {
    const auto parsed = ParseRanks(file, "m");
    EXPECT_FALSE(parsed.ok());
    return std::string(parsed.status().message());
  };
  EXPECT_NE(error("AA== 0\nAQ== 2\n").find("line 2 has the rank 2"), std::string::npos);
  EXPECT_NE(error("AA== 0\nA 1\n").find("line 2"), std::string::npos);
  EXPECT_NE(error("AA== 0\n 1\n").find("line 2"), std::string::npos);
  EXPECT_NE(error("AA== 0\nAA== 1\n").find("are the same"), std::string::npos);
  EXPECT_NE(error("AA== 0\nAQ== x\n").find("line 2"), std::string::npos);
  EXPECT_NE(error("AA== -1\n").find("rank -1"), std::string::npos);
  EXPECT_NE(error("AA== 0\n").find("0x01"), std::string::npos);
  EXPECT_NE(error("").find("0x00"), std::string::npos);
  std::string crlf;
  for (const char byte : good) {
    if (byte == '\n') crlf += '\r';
    crlf += byte;
  }
  EXPECT_TRUE(ParseRanks(crlf, "m").ok());
  EXPECT_TRUE(LooksLikeRanks(good));
  EXPECT_FALSE(LooksLikeRanks(Fixture("chatglm.model")));
  EXPECT_FALSE(LooksLikeRanks(""));
}

TEST(ChatGlmPieces, EncodesAsTheLibraryDoes) {
  const auto tokenizer = ParseChatGlmPieces(Fixture("chatglm.model"), "chatglm.model");
  ExpectCases("chatglm.model", tokenizer, /*specials=*/false);
  ASSERT_TRUE(tokenizer.ok());
  const int32_t first = 500;
  EXPECT_EQ((*tokenizer)->CommandId("MASK"), first);
  EXPECT_EQ((*tokenizer)->CommandId("gMASK"), first + 1);
  EXPECT_EQ((*tokenizer)->CommandId("sop"), first + 3);
  EXPECT_EQ((*tokenizer)->CommandId("user"), first + 6);
  EXPECT_EQ((*tokenizer)->WordId("<|observation|>"), first + 8);
  EXPECT_EQ((*tokenizer)->CommandId("eos"), 2);
  // "sop" is a command only for those who ask for it: it stands in words.
  EXPECT_EQ(*(*tokenizer)->Encode("philosophy", true), *(*tokenizer)->Encode("philosophy", false));
  EXPECT_EQ((*tokenizer)->Encode("<|user|>", true)->size(), 1u);
}

TEST(Icetk, EncodesAsTheLibraryDoesWithBothAlgorithms) {
  for (const std::string kind : {"icetk-unigram.model", "icetk-bpe.model"}) {
    ExpectCases(kind, ParseIcetk(Fixture(kind), {}, kind), /*specials=*/false);
    ExpectCases(kind + " without prefix", ParseIcetk(Fixture(kind), {.dummy_prefix = false}, kind),
                /*specials=*/false);
  }
}

TEST(Icetk, ImageIdsComeBeforeTheText) {
  const std::string file = Fixture("icetk-unigram.model");
  const auto plain = ParseIcetk(file, {}, "m");
  const auto offset = ParseIcetk(file, {.image_tokens = 20000}, "m");
  ASSERT_TRUE(plain.ok() && offset.ok());
  const std::string text = "今天\t天气  好\n<n>[gMASK]";
  Ids want = *(*plain)->Encode(text, true);
  for (int32_t& id : want) id += 20000;
  EXPECT_EQ(*(*offset)->Encode(text, true), want);
  EXPECT_EQ(want.back(), (*offset)->WordId("[gMASK]"));
  EXPECT_EQ(*(*offset)->Decode(want), "今天\t天气  好\n\n[gMASK]");
  EXPECT_EQ(*(*offset)->Decode(Ids{0, 19999}), "");
  EXPECT_EQ((*offset)->CommandId("sop"), 20000 + 240 + 4);
  EXPECT_FALSE(ParseIcetk(file, {.image_tokens = -1}, "m").ok());
}

// What the library itself makes of models that training does not make.
TEST(SentencePieceUnigram, SegmentsAsTheLibraryDoes) {
  const std::string file = Fixture("icetk-unigram.model");
  const auto ours = SentencePieceTokenizer::Parse(file, "m");
  const auto library = SentencePieceLibrary::Load(file);
  ASSERT_TRUE(ours.ok()) << ours.status();
  ASSERT_NE(library, nullptr);
  for (const json& entry : Cases().at("words")) {
    Ids ids;
    ASSERT_TRUE((*ours)->Encode(entry[0].get<std::string>(), &ids).ok());
    EXPECT_EQ(ids, library->Encode(entry[0])) << entry[0];
  }
}

// Odd models: pieces of all types, equal scores, characters without a piece, and without bytes.
TEST(SentencePieceUnigram, SegmentsByOddModelsAsTheLibraryDoes) {
  std::mt19937 random(7);
  const std::vector<std::string> parts = {"a", "b", "ab", "é", "中", " ", "\u2581", "ba", "abab"};
  const auto some = [&](int least, int most) {
    std::string text;
    for (int n = least + static_cast<int>(random() % static_cast<unsigned>(most - least + 1));
         n > 0; --n) {
      text += parts[random() % parts.size()];
    }
    return text;
  };
  for (int round = 0; round < 200; ++round) {
    SentencePieceFile file;
    file.trainer = NumberField(3, 1);
    std::set<std::string> seen;
    for (int i = 0; i < 12; ++i) {
      std::string piece = some(1, 4);
      for (char& byte : piece) byte = byte == ' ' ? 'a' : byte;
      if (!seen.insert(piece).second) continue;
      const auto type = std::vector{
          SentencePieceFile::Type::kNormal, SentencePieceFile::Type::kNormal,
          SentencePieceFile::Type::kUserDefined, SentencePieceFile::Type::kUnused}[random() % 4];
      file.Add(piece, -static_cast<float>(random() % 8) / 2 + (round % 3 == 0 ? 3.0f : 0.0f), type);
    }
    const std::string bytes = file.Bytes();
    const auto ours = SentencePieceTokenizer::Parse(bytes, "m");
    const auto library = SentencePieceLibrary::Load(bytes);
    ASSERT_TRUE(ours.ok()) << ours.status();
    ASSERT_NE(library, nullptr);
    for (int i = 0; i < 20; ++i) {
      const std::string text = some(0, 12);
      Ids ids;
      ASSERT_TRUE((*ours)->Encode(text, &ids).ok());
      ASSERT_EQ(ids, library->Encode(text)) << round << ": " << text;
    }
  }
}

// Every character of the CJK extensions A to H, and all code points in steps.
TEST(GlmTokenizers, DecodingGivesTheTextBack) {
  std::string text;
  const auto add = [&](char32_t from, char32_t to, char32_t step) {
    for (char32_t c = from; c <= to; c += step) {
      if (c < 0xD800 || c > 0xDFFF) AppendCharacter(c, &text);
    }
  };
  add(0x3400, 0x4DBF, 1);
  add(0x20000, 0x323AF, 1);
  add(0, 0x10FFFF, 61);
  add(0, 0x2FF, 1);
  const TokenizerOr tokenizers[] = {ParseTokenizerJson(Fixture("tokenizer.json"), "j"),
                                    OpenRanks(Fixture("ranks.model")),
                                    ParseChatGlmPieces(Fixture("chatglm.model"), "c")};
  for (const TokenizerOr& tokenizer : tokenizers) {
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    EXPECT_EQ(*(*tokenizer)->Decode(*(*tokenizer)->Encode(text, false)), text);
    for (const json& entry : Cases().at("words")) {
      const std::string shorter = entry[0];
      EXPECT_EQ(*(*tokenizer)->Decode(*(*tokenizer)->Encode(shorter, false)), shorter) << entry[0];
    }
  }
}

// Counts what merging asks for.
struct CountingRules {
  mutable int64_t lookups = 0;
  int32_t ByteSymbol(uint8_t) const { return 0; }
  // Any run of letters up to 64 joins: as many merges as there can be.
  const BytePairMerge* Find(int32_t left, int32_t, std::string_view joined,
                            BytePairMerge* room) const {
    ++lookups;
    if (joined.size() > 64) return nullptr;
    *room = {static_cast<uint32_t>(joined.size()), left + 1};
    return room;
  }
};

TEST(BytePairMerger, WorkIsLinearInTheWord) {
  using Merger = BytePairMerger<CountingRules>;
  for (const auto order : {Merger::Order::kRankAtOnce, Merger::Order::kPairByPair}) {
    for (const size_t bytes : {1u << 10, 1u << 20}) {
      CountingRules rules;
      std::vector<int32_t> symbols;
      Merger(rules, order).Word(std::string(bytes, 'a'), &symbols);
      EXPECT_LE(rules.lookups, static_cast<int64_t>(4 * bytes));
      EXPECT_LE(symbols.size(), bytes / 32);
    }
  }
}

// A megabyte of what is worst for each: quadratic work would take hours and be killed.
TEST(GlmTokenizers, AMegabyteOfOneThingIsEncoded) {
  const TokenizerOr tokenizers[] = {ParseTokenizerJson(Fixture("tokenizer.json"), "j"),
                                    OpenRanks(Fixture("ranks.model")),
                                    ParseChatGlmPieces(Fixture("chatglm.model"), "c"),
                                    ParseIcetk(Fixture("icetk-unigram.model"), {}, "i")};
  for (const std::string unit :
       {"a", " ", "👍", "\u0378", "\n", " \n", "'", "1", "<", "[gMASK", "，"}) {
    std::string text;
    while (text.size() < (1 << 20)) text += unit;
    for (const TokenizerOr& tokenizer : tokenizers) {
      ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
      const auto ids = (*tokenizer)->Encode(text, true);
      ASSERT_TRUE(ids.ok());
      EXPECT_EQ(*(*tokenizer)->Decode(*ids), text) << unit;
    }
  }
}

}  // namespace
}  // namespace qianyi
