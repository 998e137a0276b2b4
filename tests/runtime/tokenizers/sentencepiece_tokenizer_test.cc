#include "runtime/tokenizers/sentencepiece_tokenizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "runtime/tokenizers/utf8.h"
#include "tests/runtime/tokenizers/sentencepiece_file.h"
#include "tests/runtime/tokenizers/sentencepiece_library.h"
#include "tests/support/paths.h"

namespace qianyi {
namespace {

using Ids = std::vector<int32_t>;
using Type = SentencePieceModel::Type;

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

const std::string& CogFile() {
  static const std::string file =
      ReadFile(qianyi::testing::FixturePath("tokenizers/cog-pretrain.model"));
  return file;
}

const SentencePieceTokenizer& Cog() {
  static const std::unique_ptr<SentencePieceTokenizer> tokenizer =
      *SentencePieceTokenizer::Parse(CogFile(), "cog-pretrain.model");
  return *tokenizer;
}

Ids Encode(const SentencePieceTokenizer& tokenizer, const std::string& text) {
  Ids ids;
  EXPECT_TRUE(tokenizer.Encode(text, &ids).ok());
  return ids;
}

std::string Decode(const SentencePieceTokenizer& tokenizer, const Ids& ids) {
  std::string text;
  bool run_start = true;
  for (const int32_t id : ids) text += tokenizer.Bytes(id, &run_start);
  return text;
}

void ExpectSame(const SentencePieceLibrary& library, const SentencePieceTokenizer& tokenizer,
                const std::string& text) {
  ASSERT_EQ(Encode(tokenizer, text), library.Encode(text)) << nlohmann::json(text);
  std::vector<std::string> pieces;
  ASSERT_TRUE(tokenizer.EncodePieces(text, &pieces).ok());
  ASSERT_EQ(pieces, library.EncodePieces(text)) << nlohmann::json(text);
}

std::string RandomCharacter(std::mt19937& random, char32_t limit) {
  char32_t c = random() % limit;
  if (c >= 0xD800 && c < 0xE000) c = 0x4E00;
  std::string text;
  AppendCharacter(c, &text);
  return text;
}

TEST(SentencePieceTokenizer, EncodesTheRealModelAsTheLibraryDoes) {
  const auto library = SentencePieceLibrary::Load(CogFile());
  ASSERT_NE(library, nullptr);
  ASSERT_EQ(library->size(), Cog().size());
  std::mt19937 random(3);
  for (int round = 0; round < 3000; ++round) {
    std::string text;
    for (size_t n = random() % 12; n > 0; --n) {
      switch (random() % 4) {
        case 0:
          text += RandomCharacter(random, random() % 2 ? 0x3000 : 0x30000);
          break;
        case 1:
          text += ' ';
          break;
        default:
          text += library->Piece(static_cast<int32_t>(random() % 50000));
      }
    }
    ExpectSame(*library, Cog(), text);
  }
}

TEST(SentencePieceTokenizer, NormalizesEveryCharacterAsTheLibraryDoes) {
  const auto library = SentencePieceLibrary::Load(CogFile());
  for (char32_t c = 0; c < 0x30000; ++c) {
    if (c == 0xD800) c = 0xE000;
    std::string text = "a";
    AppendCharacter(c, &text);
    text += "b";
    ASSERT_EQ(Encode(Cog(), text), library->Encode(text)) << static_cast<uint32_t>(c);
  }
}

TEST(SentencePieceTokenizer, DecodesAsTheLibraryDoes) {
  const auto library = SentencePieceLibrary::Load(CogFile());
  std::mt19937 random(4);
  for (int round = 0; round < 3000; ++round) {
    Ids ids(random() % 10);
    for (int32_t& id : ids) {
      // Unknown, controls, "<n>", a lone space mark, and all the others.
      const int32_t choices[] = {static_cast<int32_t>(random() % 4), 43358,
                                 static_cast<int32_t>(random() % 50000)};
      id = choices[random() % 3];
    }
    ASSERT_EQ(Decode(Cog(), ids), library->Decode(ids));
  }
}

// Small models with every kind of piece and every setting of the normalizer.
SentencePieceFile RandomModel(std::mt19937& random) {
  SentencePieceFile file;
  const std::string letters[] = {"a", "b", "c", "\xE2\x96\x81", "\xE4\xB8\xAD"};
  std::vector<std::string> known(std::begin(letters), std::end(letters));
  std::vector<std::string> added;
  const auto add = [&](const std::string& text, Type type) {
    for (const SentencePieceModel::Piece& piece : file.pieces) {
      if (piece.text == text) return;
    }
    // Few scores, so that equals occur.
    file.Add(text, -static_cast<float>(random() % 6), type);
  };
  for (const std::string& letter : letters) {
    if (random() % 6 != 0) add(letter, random() % 12 == 0 ? Type::kUnused : Type::kNormal);
  }
  for (size_t n = random() % 16; n > 0; --n) {
    const std::string joined = known[random() % known.size()] + known[random() % known.size()];
    known.push_back(joined);
    add(joined, random() % 3 == 0 ? Type::kUnused : Type::kNormal);
  }
  for (size_t n = random() % 3; n > 0; --n) {
    add(known[random() % known.size()] + known[random() % known.size()], Type::kUserDefined);
  }
  if (random() % 3 == 0) {
    file.trainer += NumberField(35, 1);
    for (int byte = 0; byte < 256; ++byte) {
      char name[8];
      std::snprintf(name, sizeof name, "<0x%02X>", byte);
      file.Add(name, 0, Type::kByte);
    }
  }
  if (random() % 3 == 0) file.trainer += BytesField(44, "?!");
  for (const int field : {3, 4, 5}) {
    if (random() % 3 == 0) file.normalizer += NumberField(field, random() % 2);
  }
  if (random() % 2 == 0) {
    file.normalizer += BytesField(
        2, ByteReplacements({{'A', "a"}, {'\t', " "}, {'X', ""}, {'Y', " a "}, {'Z', "bc"}}));
  }
  return file;
}

TEST(SentencePieceTokenizer, AgreesWithTheLibraryOnModelsOfEveryKind) {
  std::mt19937 random(9);
  const std::string parts[] = {"a", "b", "c", " ",  "  ", "\xE4\xB8\xAD",     "A",
                               "X", "Y", "Z", "\t", "q",  "\xF0\x9F\xA6\x80", "\xE2\x96\x81"};
  for (int round = 0; round < 500; ++round) {
    const std::string file = RandomModel(random).Bytes();
    const auto tokenizer = SentencePieceTokenizer::Parse(file, "model");
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    const auto library = SentencePieceLibrary::Load(file);
    ASSERT_NE(library, nullptr);
    for (int n = 0; n < 20; ++n) {
      std::string text;
      for (size_t k = random() % 14; k > 0; --k) text += parts[random() % std::size(parts)];
      ExpectSame(*library, **tokenizer, text);
      Ids ids(random() % 8);
      for (int32_t& id : ids) {
        // Bytes that are no UTF-8 are left to the caller here, and repaired by the library.
        id = static_cast<int32_t>(
            random() % std::min<uint32_t>(static_cast<uint32_t>((*tokenizer)->size()), 20));
        while (library->Piece(id).substr(0, 3) == "<0x") --id;
      }
      ASSERT_EQ(Decode(**tokenizer, ids), library->Decode(ids));
    }
  }
}

TEST(SentencePieceTokenizer, BytePiecesAreBytes) {
  SentencePieceFile file;
  file.trainer += NumberField(35, 1);
  for (int byte = 0; byte < 256; ++byte) {
    char name[8];
    std::snprintf(name, sizeof name, "<0x%02X>", byte);
    file.Add(name, 0, Type::kByte);
  }
  file.normalizer = NumberField(3, 0);
  const auto tokenizer = SentencePieceTokenizer::Parse(file.Bytes(), "model");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ(Encode(**tokenizer, "\xE4\xB8\xAD"), (Ids{3 + 0xE4, 3 + 0xB8, 3 + 0xAD}));
  EXPECT_EQ(Decode(**tokenizer, {3 + 0xE4, 3 + 0xB8, 3 + 0xAD}), "\xE4\xB8\xAD");
}

TEST(SentencePieceTokenizer, LongTextsTakeNoQuadraticTime) {
  const auto seconds = [](const std::string& part) {
    std::string text;
    while (text.size() < 1 << 20) text += part;
    const auto start = std::chrono::steady_clock::now();
    EXPECT_EQ(Encode(Cog(), text).empty(), part == " ");
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  for (const char* part : {"a", "\xE4\xB8\xAD", "\xF0\x9F\xA6\x80", " ", "<n>", "\xEF\xB7\xBA"}) {
    EXPECT_LT(seconds(part), 60) << part;
  }
}

struct BadModel {
  const char* message;
  std::string file;
  absl::StatusCode code = absl::StatusCode::kInvalidArgument;
};

std::vector<BadModel> BadModels() {
  const auto with = [](auto change) {
    SentencePieceFile file;
    file.Add("a", 0);
    change(file);
    return file.Bytes();
  };
  const auto trie = [&](const std::string& table) {
    return with([&](SentencePieceFile& f) { f.normalizer = BytesField(2, table); });
  };
  const std::string sound = with([](SentencePieceFile&) {});
  const std::string group = Varint(1 << 3 | 3);
  return {
      {"no trainer_spec", ""},
      {"not a well-formed message", sound.substr(0, sound.size() - 1)},
      {"not a well-formed message", sound + group},
      {"not a well-formed message", sound + std::string(11, '\xFF')},
      {"a second trainer_spec", sound + BytesField(2, NumberField(3, 2))},
      {"a second normalizer_spec", sound + BytesField(3, "")},
      {"piece 4 is empty", with([](SentencePieceFile& f) { f.Add("", 0); })},
      {"piece 4 occurs twice", with([](SentencePieceFile& f) { f.Add("a", 0); })},
      {"piece 4 has no finite score", with([](SentencePieceFile& f) { f.Add("b", NAN); })},
      {"piece 4 has the type 9",
       with([](SentencePieceFile& f) { f.Add("b", 0, static_cast<Type>(9)); })},
      {"pieces 0 and 4 are both",
       with([](SentencePieceFile& f) { f.Add("b", 0, Type::kUnknown); })},
      {"no piece is of the type unknown",
       with([](SentencePieceFile& f) { f.pieces.erase(f.pieces.begin()); })},
      {"byte_fallback is off", with([](SentencePieceFile& f) { f.Add("<0x41>", 0, Type::kByte); })},
      {"its name is not", with([](SentencePieceFile& f) { f.Add("<0x4>", 0, Type::kByte); })},
      {"there is no piece <0x00>",
       with([](SentencePieceFile& f) { f.trainer += NumberField(35, 1); })},
      {"cannot hold a trie", trie("ab")},
      {"cannot hold a trie", trie(std::string("\xFF\xFF\xFF\xFF", 4) + "abcd")},
      {"cannot hold a trie", trie(std::string("\x03\0\0\0", 4) + "abcd")},
      {"do not end with a NUL", trie(std::string("\x04\0\0\0", 4) + "abcdx")},
      {"a replacement of the normalizer has 300",
       trie(std::string("\x04\0\0\0", 4) + "abcd" + std::string(300, 'x') + '\0')},
      {"model_type is 3", with([](SentencePieceFile& f) { f.trainer = NumberField(3, 3); }),
       absl::StatusCode::kUnimplemented},
      {"white space as a suffix",
       with([](SentencePieceFile& f) { f.trainer += NumberField(24, 1); }),
       absl::StatusCode::kUnimplemented},
      {"denormalizer", sound + BytesField(5, BytesField(2, "x")), absl::StatusCode::kUnimplemented},
  };
}

TEST(SentencePieceTokenizer, RefusesBrokenModelsWithTheirName) {
  for (const BadModel& bad : BadModels()) {
    const auto tokenizer = SentencePieceTokenizer::Parse(bad.file, "the.model");
    ASSERT_EQ(tokenizer.status().code(), bad.code) << bad.message << tokenizer.status();
    const std::string message(tokenizer.status().message());
    EXPECT_NE(message.find(bad.message), std::string::npos) << message;
    EXPECT_EQ(message.substr(0, 11), "the.model: ") << message;
  }
}

// Links and values that lead out of their tables, which the library would follow.
TEST(SentencePieceTokenizer, HostileTablesLeadNowhere) {
  std::mt19937 random(21);
  for (int round = 0; round < 300; ++round) {
    std::string table = ByteReplacements({{'a', "b"}, {'c', "d"}});
    for (size_t n = 1 + random() % 40; n > 0; --n) {
      // Past the size, up to the replacements.
      table[4 + random() % (table.size() - 9)] = static_cast<char>(random());
    }
    SentencePieceFile file;
    file.Add("a", 0);
    file.normalizer = BytesField(2, table);
    const auto tokenizer = SentencePieceTokenizer::Parse(file.Bytes(), "model");
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    for (const char* text : {"a", "acac", "zzz", "\xE4\xB8\xAD"}) Encode(**tokenizer, text);
  }
}

}  // namespace
}  // namespace qianyi
