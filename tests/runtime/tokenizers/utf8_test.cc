#include "runtime/tokenizers/utf8.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

namespace qianyi {
namespace {

using namespace std::string_literals;

std::string Repair(std::string_view bytes) {
  std::string out;
  EXPECT_EQ(AppendRepaired(bytes, true, &out), bytes.size());
  return out;
}

const std::string kMark = "\xEF\xBF\xBD";

TEST(Utf8, EveryCharacterIsWellFormedAndReadBack) {
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (c == 0xD800) c = 0xE000;
    std::string text;
    AppendCharacter(c, &text);
    ASSERT_EQ(WellFormedPrefix(text), text.size()) << static_cast<uint32_t>(c);
    ASSERT_EQ(FirstCharacter(text), c);
    ASSERT_EQ(StepUtf8(text).bytes, text.size());
  }
}

TEST(Utf8, SurrogatesOverlongFormsAndLargeNumbersAreIllFormed) {
  for (const std::string& bytes :
       {"\xED\xA0\x80"s, "\xED\xBF\xBF"s, "\xC0\x80"s, "\xC1\xBF"s, "\xE0\x80\x80"s,
        "\xE0\x9F\xBF"s, "\xF0\x80\x80\x80"s, "\xF0\x8F\xBF\xBF"s, "\xF4\x90\x80\x80"s,
        "\xF5\x80\x80\x80"s, "\x80"s, "\xFF"s}) {
    EXPECT_EQ(WellFormedPrefix(bytes), 0u);
    EXPECT_EQ(StepUtf8(bytes).kind, Utf8Step::Kind::kIllFormed);
    // Each of these has no maximal part longer than a byte.
    std::string want;
    for (size_t i = 0; i < bytes.size(); ++i) want += kMark;
    EXPECT_EQ(Repair(bytes), want);
  }
}

// The table of The Unicode Standard 15.0, section 3.9, "U+FFFD substitution of maximal subparts".
TEST(Utf8, ReplacesMaximalParts) {
  EXPECT_EQ(Repair("\x61\xF1\x80\x80\xE1\x80\xC2\x62\x80\x63\x80\xBF\x64"),
            "a" + kMark + kMark + kMark + "b" + kMark + "c" + kMark + kMark + "d");
  EXPECT_EQ(Repair("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41"), kMark + kMark + kMark + kMark + "A");
  EXPECT_EQ(Repair("\xF0\x9F\x98"), kMark);
}

TEST(Utf8, IncompleteCharactersWaitForTheirEnd) {
  std::string out;
  EXPECT_EQ(AppendRepaired("a\xF0\x9F\x98", false, &out), 1u);
  EXPECT_EQ(out, "a");
  // Can no longer become a character.
  EXPECT_EQ(AppendRepaired("\xE0\x80", false, &out), 2u);
  EXPECT_EQ(out, "a" + kMark + kMark);
}

TEST(Utf8, CuttingTheBytesAnywhereChangesNothing) {
  std::mt19937 random(5);
  const std::string alphabet = "a\x80\xBF\xC2\xE0\xA0\xE4\xB8\xAD\xED\x9F\xF0\x90\xF4\x8F\xFF";
  for (int round = 0; round < 3000; ++round) {
    std::string bytes(random() % 12, '\0');
    for (char& byte : bytes) byte = alphabet[random() % alphabet.size()];
    std::string pieces;
    std::string pending;
    for (const char byte : bytes) {
      pending += byte;
      pending.erase(0, AppendRepaired(pending, false, &pieces));
      ASSERT_LE(pending.size(), 3u);
    }
    AppendRepaired(pending, true, &pieces);
    ASSERT_EQ(pieces, Repair(bytes));
    ASSERT_EQ(WellFormedPrefix(pieces), pieces.size());
  }
}

TEST(Utf8, PythonsWhiteSpace) {
  std::vector<char32_t> spaces;
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (IsPythonSpace(c)) spaces.push_back(c);
  }
  const std::vector<char32_t> want = {
      0x09,   0x0A,   0x0B,   0x0C,   0x0D,   0x1C,   0x1D,   0x1E,   0x1F,   0x20,
      0x85,   0xA0,   0x1680, 0x2000, 0x2001, 0x2002, 0x2003, 0x2004, 0x2005, 0x2006,
      0x2007, 0x2008, 0x2009, 0x200A, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000};
  EXPECT_EQ(spaces, want);
  EXPECT_EQ(StripRight("a b \x1C\xC2\x85\xE3\x80\x80\n"), "a b");
  EXPECT_EQ(StripRight("a\xE2\x80\x8B"), "a\xE2\x80\x8B");  // a zero-width space is none
  EXPECT_TRUE(IsBlank(" \t\xE3\x80\x80"));
  EXPECT_TRUE(IsBlank(""));
  EXPECT_FALSE(IsBlank(" x "));
}

}  // namespace
}  // namespace qianyi
