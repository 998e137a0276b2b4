#include "runtime/verse/verse_tokens.h"

#include <algorithm>
#include <limits>
#include <string>

#include "runtime/tokenizers/utf8.h"
#include "runtime/verse/verse_text.h"

namespace qianyi {

VerseTokens::VerseTokens(const Tokenizer& tokenizer, const CharacterTable& table)
    : token_classes_(tokenizer.vocab_size(), kNever), symbols_(1) {
  std::vector<std::u32string> texts(token_classes_.size());
  for (int32_t token = 0; token < vocab_size(); ++token) {
    const std::string_view bytes = tokenizer.TokenBytes(token);
    if (WellFormedPrefix(bytes) != bytes.size()) continue;
    texts[token] = Characters(bytes);
    if (texts[token].size() == 1 && VerseMark(texts[token][0]) == texts[token][0]) {
      wide_marks_.push_back(texts[token][0]);
    }
  }
  text_begins_.reserve(texts.size() + 1);
  for (int32_t token = 0; token < vocab_size(); ++token) {
    text_begins_.push_back(static_cast<uint32_t>(text_.size()));
    if (Qualifies(texts[token])) AddToken(token, texts[token], table);
  }
  text_begins_.push_back(static_cast<uint32_t>(text_.size()));
  AddShapes();
  GroupAlone();
  CountSupply();
}

bool VerseTokens::Qualifies(std::u32string_view text) const {
  return !text.empty() && std::all_of(text.begin(), text.end(), [this](char32_t code) {
    if (IsHan(code)) return true;
    const char32_t mark = VerseMark(code);
    return mark != 0 && (mark == code || std::find(wide_marks_.begin(), wide_marks_.end(), mark) ==
                                             wide_marks_.end());
  });
}

void VerseTokens::AddToken(int32_t token, std::u32string_view text, const CharacterTable& table) {
  for (const char32_t code : text) text_.push_back(AddCharacter(code, table));
  if (text.size() == 1) {
    token_classes_[token] = characters_[text_.back()].symbol;
  } else {
    several_.push_back(token);
  }
}

// Classes of tokens of several characters, behind those of one.
void VerseTokens::AddShapes() {
  constexpr size_t kMaxClasses = std::numeric_limits<Class>::max();
  std::unordered_map<std::string, Class> known;
  shape_begins_.push_back(0);
  for (const int32_t token : several_) {
    std::string shape;
    for (const int32_t character : Text(token)) {
      shape += static_cast<char>(ShapeSymbol(symbols_[characters_[character].symbol]));
    }
    const size_t next = symbols_.size() + known.size();
    const auto [place, added] = known.emplace(shape, static_cast<Class>(next));
    if (added && next > kMaxClasses) {
      known.erase(place);
      continue;
    }
    token_classes_[token] = place->second;
    if (!added) continue;
    shapes_.insert(shapes_.end(), shape.begin(), shape.end());
    shape_begins_.push_back(static_cast<uint32_t>(shapes_.size()));
  }
}

uint8_t VerseTokens::ShapeSymbol(const Symbol& symbol) {
  Symbol rough = symbol;
  rough.sound.groups = symbol.sound.level ? ~uint32_t{0} : 0;
  const auto found = std::find(shape_symbols_.begin(), shape_symbols_.end(), rough);
  const auto index = static_cast<uint8_t>(found - shape_symbols_.begin());
  if (found == shape_symbols_.end()) shape_symbols_.push_back(rough);
  return index;
}

std::span<const uint8_t> VerseTokens::Shape(int token_class) const {
  const size_t index = token_class - symbols_.size();
  return std::span(shapes_).subspan(shape_begins_[index],
                                    shape_begins_[index + 1] - shape_begins_[index]);
}

int32_t VerseTokens::AddCharacter(char32_t code, const CharacterTable& table) {
  const auto [place, added] = by_code_.emplace(code, static_cast<int32_t>(characters_.size()));
  if (!added) return place->second;
  const char32_t mark = VerseMark(code);
  const Symbol symbol{mark, mark == 0 ? table.Find(code) : Sound{}};
  const auto found = std::find(symbols_.begin() + 1, symbols_.end(), symbol);
  characters_.push_back({code, static_cast<Class>(found - symbols_.begin())});
  if (found == symbols_.end()) symbols_.push_back(symbol);
  return place->second;
}

void VerseTokens::GroupAlone() {
  alone_begins_.assign(characters_.size() + 1, 0);
  for (int32_t token = 0; token < vocab_size(); ++token) {
    if (const auto text = Text(token); text.size() == 1) ++alone_begins_[text[0] + 1];
  }
  for (size_t i = 1; i < alone_begins_.size(); ++i) alone_begins_[i] += alone_begins_[i - 1];
  alone_.resize(alone_begins_.back());
  std::vector<uint32_t> next(alone_begins_.begin(), alone_begins_.end() - 1);
  for (int32_t token = 0; token < vocab_size(); ++token) {
    if (const auto text = Text(token); text.size() == 1) alone_[next[text[0]]++] = token;
  }
}

void VerseTokens::CountSupply() {
  for (int32_t character = 0; character < static_cast<int32_t>(characters_.size()); ++character) {
    const Symbol& symbol = symbols_[characters_[character].symbol];
    if (symbol.mark != 0 || Alone(character).empty()) continue;
    ++supply_.characters;
    supply_.level += symbol.sound.level;
    supply_.oblique += symbol.sound.oblique;
    for (int group = 0; group < CharacterTable::kMaxGroups; ++group) {
      supply_.rhymes[group] += symbol.sound.groups >> group & 1;
    }
  }
}

std::span<const int32_t> VerseTokens::Text(int32_t token) const {
  if (token < 0 || token >= vocab_size()) return {};
  return std::span(text_).subspan(text_begins_[token],
                                  text_begins_[token + 1] - text_begins_[token]);
}

int32_t VerseTokens::FindCharacter(char32_t code) const {
  const auto found = by_code_.find(code);
  return found == by_code_.end() ? -1 : found->second;
}

std::span<const int32_t> VerseTokens::Alone(int32_t character) const {
  return std::span(alone_).subspan(alone_begins_[character],
                                   alone_begins_[character + 1] - alone_begins_[character]);
}

bool VerseTokens::HasMark(char32_t mark) const {
  return std::any_of(characters_.begin(), characters_.end(), [&](const Character& character) {
    return symbols_[character.symbol].mark == mark &&
           !Alone(static_cast<int32_t>(&character - characters_.data())).empty();
  });
}

}  // namespace qianyi
