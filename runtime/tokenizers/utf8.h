// The few things tokenizers need to know about UTF-8 and white space.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace qianyi {

// The bytes at the start of a non-empty text, up to the end of one character or of one
// maximal ill-formed part (The Unicode Standard 15.0, section 3.9, table 3-7 and U+FFFD
// substitution of maximal subparts).
struct Utf8Step {
  enum class Kind : uint8_t {
    kCharacter,
    kIllFormed,
    kIncomplete,  // the text ends inside what may still become a character
  };
  Kind kind = Kind::kCharacter;
  uint8_t bytes = 1;  // 1..4
};
Utf8Step StepUtf8(std::string_view text);

// Offset of the first byte that does not belong to a well-formed character, or text.size().
size_t WellFormedPrefix(std::string_view text);

// Appends `bytes` with one U+FFFD for each maximal ill-formed part. When more bytes may
// follow (`last` false) an incomplete character at the end is left out. Returns how many
// bytes were used: all, or all but at most three.
size_t AppendRepaired(std::string_view bytes, bool last, std::string* out);

// The first character of well-formed, non-empty text.
char32_t FirstCharacter(std::string_view text);
void AppendCharacter(char32_t character, std::string* out);

// White space as Python's str.strip knows it: wider than Unicode's White_Space by U+001C..1F.
bool IsPythonSpace(char32_t character);
// Well-formed text without such white space at its right end.
std::string_view StripRight(std::string_view text);
std::string_view StripLeft(std::string_view text);  // at its left
// True when there is nothing but such white space.
bool IsBlank(std::string_view text);

}  // namespace qianyi
