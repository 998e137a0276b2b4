// The tokens of a vocabulary that verse can be written with, by what a form asks of them.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "runtime/tokenizers/tokenizer.h"
#include "runtime/verse/character_table.h"

namespace qianyi {

// Built once per tokenizer, which it does not keep; immutable afterwards, thread-safe. Constraints
// hold a reference: it outlives them.
//
// A token qualifies when its text is Chinese characters and marks (verse_text.h) only. Command
// words, bytes, parts of characters, pieces with a space and empty ones never do. A half-width
// mark counts when the vocabulary has no token of the full-width one. A model whose table is
// larger than its tokenizer's vocabulary has more logits than tokens: those never qualify.
// (Nor does what finds its number of Class used up, after 65,000 different shapes.)
class VerseTokens {
 public:
  explicit VerseTokens(const Tokenizer& tokenizer,
                       const CharacterTable& table = CharacterTable::Get());

  // What a form sees of a character. Tokens of one character with equal symbols are alike to it
  // until it has to know a character itself.
  struct Symbol {
    char32_t mark = 0;  // 0 = a Chinese character
    Sound sound;
    friend bool operator==(const Symbol&, const Symbol&) = default;
  };
  // What a form sees of a token, unless rhymes or characters themselves matter: kNever when it
  // does not qualify, an index of symbols() when it is one character, and behind these its shape:
  // the marks and tones of several.
  using Class = uint16_t;
  static constexpr Class kNever = 0;

  struct Character {
    char32_t code = 0;
    Class symbol = 0;
  };

  int32_t vocab_size() const { return static_cast<int32_t>(token_classes_.size()); }
  std::span<const Class> token_classes() const { return token_classes_; }
  std::span<const Symbol> symbols() const { return symbols_; }  // the first stands for kNever
  // The symbols that a class is made of, as indices of shape_symbols(). These have every rhyme
  // group if they can be level.
  int classes() const { return static_cast<int>(symbols_.size() + shape_begins_.size() - 1); }
  std::span<const uint8_t> Shape(int token_class) const;
  std::span<const Symbol> shape_symbols() const { return shape_symbols_; }
  std::span<const Character> characters() const { return characters_; }
  std::span<const int32_t> several() const { return several_; }  // tokens of several characters

  // The characters of a token, as indices of characters(); none if it does not qualify.
  std::span<const int32_t> Text(int32_t token) const;
  int32_t FindCharacter(char32_t code) const;  // its index, or -1
  // The tokens that are this character alone.
  std::span<const int32_t> Alone(int32_t character) const;

  // Different characters that are a token alone: what is always there to go on with.
  struct Supply {
    int level = 0;
    int oblique = 0;
    int characters = 0;
    std::array<int, CharacterTable::kMaxGroups> rhymes{};  // by group
  };
  const Supply& supply() const { return supply_; }
  bool HasMark(char32_t mark) const;  // as a token alone

 private:
  bool Qualifies(std::u32string_view text) const;
  void AddToken(int32_t token, std::u32string_view text, const CharacterTable& table);
  int32_t AddCharacter(char32_t code, const CharacterTable& table);
  void AddShapes();
  uint8_t ShapeSymbol(const Symbol& symbol);
  void GroupAlone();
  void CountSupply();

  std::vector<char32_t> wide_marks_;  // full-width marks that are a token alone
  std::vector<Class> token_classes_;
  std::vector<Symbol> symbols_;
  std::vector<Symbol> shape_symbols_;
  std::vector<uint32_t> shape_begins_;  // [shapes + 1] in shapes_
  std::vector<uint8_t> shapes_;
  std::vector<Character> characters_;
  std::unordered_map<char32_t, int32_t> by_code_;
  std::vector<int32_t> several_;
  std::vector<uint32_t> text_begins_;  // [vocab_size + 1] in text_
  std::vector<int32_t> text_;
  std::vector<uint32_t> alone_begins_;  // [characters + 1] in alone_
  std::vector<int32_t> alone_;
  Supply supply_;
};

}  // namespace qianyi
