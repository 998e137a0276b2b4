#include "runtime/tokenizers/word_scanner.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace qianyi {
namespace {

using Words = std::vector<std::string>;

Words Split(std::string_view text) {
  Words words;
  while (!text.empty()) {
    const size_t bytes = FirstWord(text);
    EXPECT_GE(bytes, 1u);
    EXPECT_LE(bytes, text.size());
    words.emplace_back(text.substr(0, bytes));
    text.remove_prefix(bytes);
  }
  return words;
}

TEST(WordScanner, ContractionsComeFirstAndNeedNoBoundary) {
  EXPECT_EQ(Split("I'm we'll they've"), (Words{"I", "'m", " we", "'ll", " they", "'ve"}));
  EXPECT_EQ(Split("'sun"), (Words{"'s", "un"}));
  EXPECT_EQ(Split("'restless"), (Words{"'re", "stless"}));
  EXPECT_EQ(Split("I'M"), (Words{"I", "'", "M"}));
  EXPECT_EQ(Split("x 's"), (Words{"x", " '", "s"}));
  EXPECT_EQ(Split("'"), (Words{"'"}));
  EXPECT_EQ(Split("'l"), (Words{"'", "l"}));
  EXPECT_EQ(Split("!'s"), (Words{"!'", "s"}));
  EXPECT_EQ(Split("it\xE2\x80\x99s"), (Words{"it", "\xE2\x80\x99", "s"}));
}

TEST(WordScanner, OneSpaceJoinsTheWordAfterIt) {
  EXPECT_EQ(Split("a b"), (Words{"a", " b"}));
  EXPECT_EQ(Split("a   b"), (Words{"a", "  ", " b"}));
  EXPECT_EQ(Split("a \tb"), (Words{"a", " ", "\t", "b"}));
  EXPECT_EQ(Split("a\t b"), (Words{"a", "\t", " b"}));
  EXPECT_EQ(Split("\tb"), (Words{"\t", "b"}));
  EXPECT_EQ(Split("a  "), (Words{"a", "  "}));
  EXPECT_EQ(Split(" "), (Words{" "}));
  EXPECT_EQ(Split(" 12 !?"), (Words{" 12", " !?"}));
  EXPECT_EQ(Split("\xC2\xA0x"), (Words{"\xC2\xA0", "x"}));  // only U+0020 joins
}

TEST(WordScanner, ClassesAreUnicodes) {
  EXPECT_EQ(Split("x\xC2\xB2"), (Words{"x", "\xC2\xB2"}));        // superscript two: No
  EXPECT_EQ(Split("1\xE2\x85\xA7"), (Words{"1\xE2\x85\xA7"}));    // Roman eight: Nl
  EXPECT_EQ(Split("e\xCC\x81x"), (Words{"e", "\xCC\x81", "x"}));  // a mark is no letter
  EXPECT_EQ(Split("\xE4\xB8\xAD\xE6\x96\x87"), (Words{"\xE4\xB8\xAD\xE6\x96\x87"}));
  EXPECT_EQ(Split("a\x1C"), (Words{"a", "\x1C"}));
  EXPECT_EQ(Split("\x1C\x1C!"), (Words{"\x1C\x1C!"}));  // not White_Space
  EXPECT_EQ(Split("\xC2\x85\xC2\x85z"), (Words{"\xC2\x85", "\xC2\x85", "z"}));
  // Letters that Unicode 15.0 added (U+1DF25), and a place it leaves unassigned (U+0378).
  EXPECT_EQ(Split("a\xF0\x9D\xBC\xA5\xCD\xB8"), (Words{"a\xF0\x9D\xBC\xA5", "\xCD\xB8"}));
}

}  // namespace
}  // namespace qianyi
