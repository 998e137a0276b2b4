#include "runtime/detokenizer.h"

#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "runtime/tokenizers/commands.h"
#include "runtime/tokenizers/gpt2_bpe.h"
#include "runtime/tokenizers/sentencepiece_tokenizer.h"
#include "runtime/tokenizers/utf8.h"
#include "tests/support/paths.h"

namespace qianyi {
namespace {

using Ids = std::vector<int32_t>;

const Tokenizer& English() {
  static const std::unique_ptr<Tokenizer> tokenizer =
      *CommandTokenizer::Create(std::shared_ptr<const TextTokenizer>(*Gpt2Bpe::Open(
                                    qianyi::testing::FixturePath("tokenizers/gpt2-vocab.json"),
                                    qianyi::testing::FixturePath("tokenizers/gpt2-merges.txt"))),
                                *StandardCommands("glm-english"));
  return *tokenizer;
}

const Tokenizer& Chinese() {
  static const std::unique_ptr<Tokenizer> tokenizer =
      *CommandTokenizer::Create(std::shared_ptr<const TextTokenizer>(*SentencePieceTokenizer::Open(
                                    qianyi::testing::FixturePath("tokenizers/cog-pretrain.model"))),
                                *StandardCommands("glm-chinese"));
  return *tokenizer;
}

struct Stream {
  std::vector<std::string> pieces;  // one per token, then what Finish gave
  std::string text;
  bool stopped;
  int stop_index;
};

Stream Feed(const Tokenizer& tokenizer, const Ids& ids, std::vector<std::string> stops = {}) {
  Stream stream;
  Detokenizer detokenizer(tokenizer, std::move(stops));
  const auto take = [&](const std::string& piece) {
    EXPECT_EQ(WellFormedPrefix(piece), piece.size());
    stream.pieces.push_back(piece);
    stream.text += piece;
  };
  for (const int32_t id : ids) {
    std::string piece;
    detokenizer.Append(id, &piece);
    take(piece);
  }
  std::string piece;
  detokenizer.Finish(&piece);
  take(piece);
  stream.stopped = detokenizer.stopped();
  stream.stop_index = detokenizer.stop_index();
  return stream;
}

Ids RandomIds(std::mt19937& random, bool chinese) {
  Ids ids(random() % 24);
  for (int32_t& id : ids) {
    switch (random() % 4) {
      case 0:  // single bytes in GPT-2; unknown, controls and "<n>" in the other
        id = static_cast<int32_t>(random() % (chinese ? 4 : 256));
        break;
      case 1:
        id = chinese ? 43358 : 50256 + static_cast<int32_t>(random() % 10);
        break;
      default:
        id = static_cast<int32_t>(random() % 50000);
    }
    if (chinese && random() % 8 == 0) id = 50006 + static_cast<int32_t>(random() % 5);
  }
  return ids;
}

TEST(Detokenizer, AllPiecesTogetherAreWhatDecodeGives) {
  std::mt19937 random(13);
  for (int round = 0; round < 4000; ++round) {
    const bool chinese = round % 2 == 1;
    const Tokenizer& tokenizer = chinese ? Chinese() : English();
    const Ids ids = RandomIds(random, chinese);
    ASSERT_EQ(Feed(tokenizer, ids).text, *tokenizer.Decode(ids));
  }
}

// What the definition says, byte by byte.
struct Cut {
  std::string text;
  int stop_index;
};
Cut CutAtStop(const std::string& text, const std::vector<std::string>& stops) {
  for (size_t end = 1; end <= text.size(); ++end) {
    int best = -1;
    for (size_t i = 0; i < stops.size(); ++i) {
      const std::string& stop = stops[i];
      if (stop.empty() || stop.size() > end ||
          text.compare(end - stop.size(), stop.size(), stop) != 0) {
        continue;
      }
      if (best < 0 || stop.size() > stops[static_cast<size_t>(best)].size()) {
        best = static_cast<int>(i);
      }
    }
    if (best >= 0) return {text.substr(0, end - stops[static_cast<size_t>(best)].size()), best};
  }
  return {text, -1};
}

TEST(Detokenizer, StopsAtTheFirstStopString) {
  std::mt19937 random(17);
  int stopped = 0;
  for (int round = 0; round < 6000; ++round) {
    // Text and stops over two letters and a character of three bytes, so that they overlap.
    const auto word = [&](size_t length) {
      const std::string letters[] = {"a", "b", "\xE4\xB8\xAD"};
      std::string text;
      while (length-- > 0) text += letters[random() % 3];
      return text;
    };
    std::vector<std::string> stops;
    for (size_t n = 1 + random() % 3; n > 0; --n) stops.push_back(word(1 + random() % 6));
    const std::string text = word(random() % 40);
    // Single bytes, so that a stop string is spread over many tokens.
    Ids ids;
    for (const char byte : text) {
      const uint8_t value = static_cast<uint8_t>(byte);
      // GPT-2 numbers the printing bytes from 0, then Latin-1's two ranges, then the rest.
      ids.push_back(value >= 0x21 && value <= 0x7E   ? value - 0x21
                    : value >= 0xA1 && value <= 0xAC ? value - 0xA1 + 94
                    : value >= 0xAE                  ? value - 0xAE + 106
                    : value == 0xAD                  ? 255
                    : value <= 0x20                  ? value + 188
                                                     : value - 0x7F + 221);
    }
    ASSERT_EQ(*English().Decode(ids), text);
    const Stream stream = Feed(English(), ids, stops);
    const Cut want = CutAtStop(text, stops);
    ASSERT_EQ(stream.text, want.text);
    ASSERT_EQ(stream.stop_index, want.stop_index);
    ASSERT_EQ(stream.stopped, want.stop_index >= 0);
    stopped += stream.stopped;
  }
  EXPECT_GT(stopped, 1000);
  EXPECT_LT(stopped, 5900);
}

TEST(Detokenizer, HoldsBackOnlyWhatMayBelongToAStop) {
  const Ids ids = *English().Encode("Hi<|endoftext|>!", true);  // "Hi", the command, "!"
  ASSERT_EQ(ids.size(), 3u);
  const Stream stream = Feed(English(), ids, {"text|>?"});
  EXPECT_EQ(stream.pieces, (std::vector<std::string>{"Hi", "<|endof", "text|>!", ""}));
  const Stream unfinished = Feed(English(), Ids{ids[0], ids[1]}, {"text|>?"});
  EXPECT_EQ(unfinished.pieces, (std::vector<std::string>{"Hi", "<|endof", "text|>"}));
}

TEST(Detokenizer, NothingFollowsAStop) {
  Detokenizer detokenizer(English(), {"there"});
  std::string text;
  const Ids ids = *English().Encode("Hi there, you there", false);
  for (const int32_t id : ids) detokenizer.Append(id, &text);
  detokenizer.Finish(&text);
  EXPECT_EQ(text, "Hi ");
  EXPECT_TRUE(detokenizer.stopped());
  EXPECT_EQ(detokenizer.stop_index(), 0);
}

TEST(Detokenizer, TheStopThatIsCompleteFirstCounts) {
  const Ids abc = *English().Encode("abc", false);
  EXPECT_EQ(Feed(English(), abc, {"abc", "b"}).text, "a");
  EXPECT_EQ(Feed(English(), abc, {"abc", "b"}).stop_index, 1);
  EXPECT_EQ(Feed(English(), abc, {"c", "bc"}).text, "a");
  EXPECT_EQ(Feed(English(), abc, {"c", "bc"}).stop_index, 1);
  EXPECT_EQ(Feed(English(), abc, {"bc", "bc"}).stop_index, 0);
}

TEST(Detokenizer, VoidStopStringsNeverMatch) {
  const Ids ids = *English().Encode("a\xE4\xB8\xAD", false);
  const Stream stream = Feed(English(), ids, {"", "\xB8", "\xE4", "zz"});
  EXPECT_EQ(stream.text, "a\xE4\xB8\xAD");
  EXPECT_FALSE(stream.stopped);
}

TEST(Detokenizer, AnUnfinishedCharacterIsReplacedAtTheEnd) {
  const Ids ids = *English().Encode("\xF0\x9F\xA6\x80", false);
  ASSERT_GT(ids.size(), 1u);
  const Stream stream = Feed(English(), Ids(ids.begin(), ids.end() - 1), {"\xEF\xBF\xBD?"});
  EXPECT_EQ(stream.text, "\xEF\xBF\xBD");
  EXPECT_EQ(stream.pieces.back(), "\xEF\xBF\xBD");
  // And may be what a stop string asks for.
  EXPECT_TRUE(Feed(English(), Ids(ids.begin(), ids.end() - 1), {"\xEF\xBF\xBD"}).stopped);
}

TEST(Detokenizer, UnknownIdsAddNothing) {
  const Stream stream = Feed(Chinese(), {-1, 50005, 1 << 30, 37303});
  EXPECT_EQ(stream.text, *Chinese().Decode(Ids{37303}));
}

TEST(Detokenizer, LongStreamsAndStopsTakeNoQuadraticTime) {
  const int32_t a = English().Encode("a", false)->front();
  const std::string almost(20000, 'a');
  const auto start = std::chrono::steady_clock::now();
  Detokenizer detokenizer(English(), {almost + "b", almost + "c"});
  std::string text;
  for (int i = 0; i < 1000000; ++i) detokenizer.Append(a, &text);
  detokenizer.Finish(&text);
  EXPECT_EQ(text.size(), 1000000u);
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  EXPECT_LT(seconds, 30);  // moving 20 kB per token would take minutes under a sanitizer
}

}  // namespace
}  // namespace qianyi
