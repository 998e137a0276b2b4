// A tokenizer that is a list of tokens, and vocabularies to write verse with.
#pragma once

#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/tokenizers/tokenizer.h"
#include "runtime/verse/character_table.h"
#include "runtime/verse/verse_text.h"

namespace qianyi::testing {

class FakeTokenizer final : public Tokenizer {
 public:
  explicit FakeTokenizer(std::vector<std::string> tokens) : tokens_(std::move(tokens)) {}

  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view, bool) const override {
    return absl::UnimplementedError("not for tests of verse");
  }
  absl::StatusOr<std::string> Decode(std::span<const int32_t> ids) const override {
    std::string text;
    for (const int32_t id : ids) text += tokens_[id];
    return text;
  }
  std::string_view TokenBytes(int32_t id) const override { return tokens_[id]; }
  std::string_view NextBytes(int32_t id, bool*) const override { return tokens_[id]; }
  int32_t vocab_size() const override { return static_cast<int32_t>(tokens_.size()); }
  int32_t CommandId(std::string_view) const override { return -1; }

 private:
  std::vector<std::string> tokens_;
};

// Every `nth` character of the table.
inline std::vector<std::string> TableCharacters(int nth) {
  std::vector<std::string> characters;
  int seen = 0;
  for (char32_t c = 0x4E00; c < 0xA000; ++c) {
    if (CharacterTable::Get().Find(c).known() && seen++ % nth == 0) characters.push_back(Utf8(c));
  }
  return characters;
}

// Token 0 is the end; then marks, then `characters`.
inline std::vector<std::string> Vocabulary(const std::vector<std::string>& characters) {
  std::vector<std::string> tokens = {"", "，", "。", "、"};
  tokens.insert(tokens.end(), characters.begin(), characters.end());
  return tokens;
}

// With `more` tokens of two to four characters or marks, some of which no other token has, and
// others that never qualify.
inline std::vector<std::string> WithPhrases(std::vector<std::string> tokens, int more,
                                            uint32_t seed) {
  std::mt19937 random(seed);
  const std::vector<std::string> all = TableCharacters(1);
  const size_t single = tokens.size();
  for (int i = 0; i < more; ++i) {
    std::string phrase;
    for (int length = 2 + random() % 3; length > 0; --length) {
      const bool any = random() % 4 == 0;
      phrase += any ? all[random() % all.size()] : tokens[1 + random() % (single - 1)];
    }
    tokens.push_back(phrase);
  }
  for (const char* other : {" 春", "[MASK]", "\xE6\x98", "a", "春b", "12", "\xFF", "", "春 "}) {
    tokens.push_back(other);
  }
  return tokens;
}

}  // namespace qianyi::testing
