#include "runtime/verse/verse_text.h"

#include <unicode/uchar.h>

#include "runtime/tokenizers/utf8.h"

namespace qianyi {

bool IsHan(char32_t character) {
  return character == U'〇' ||
         u_hasBinaryProperty(static_cast<UChar32>(character), UCHAR_UNIFIED_IDEOGRAPH);
}

char32_t VerseMark(char32_t character) {
  constexpr std::u32string_view kMarks = U"，；：！？。、", kNarrow = U",;:!?";
  if (kMarks.find(character) != kMarks.npos) return character;
  const size_t narrow = kNarrow.find(character);
  return narrow == kNarrow.npos ? 0 : kMarks[narrow];
}

std::u32string Characters(std::string_view text) {
  std::u32string characters;
  while (!text.empty()) {
    const Utf8Step step = StepUtf8(text);
    const bool well_formed = step.kind == Utf8Step::Kind::kCharacter;
    characters.push_back(well_formed ? FirstCharacter(text) : U'\uFFFD');
    text.remove_prefix(step.bytes);
  }
  return characters;
}

std::string Utf8(std::u32string_view characters) {
  std::string text;
  for (const char32_t character : characters) AppendCharacter(character, &text);
  return text;
}

std::string Utf8(char32_t character) { return Utf8(std::u32string_view(&character, 1)); }

std::vector<std::string> Clauses(std::string_view text) {
  std::vector<std::string> clauses;
  bool inside = false;
  for (const char32_t character : Characters(text)) {
    if (VerseMark(character) != 0 || IsPythonSpace(character)) {
      inside = false;
      continue;
    }
    if (!inside) clauses.emplace_back();
    inside = true;
    AppendCharacter(character, &clauses.back());
  }
  return clauses;
}

}  // namespace qianyi
