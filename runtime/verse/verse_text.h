// Characters and punctuation of verse.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace qianyi {

// What verse counts as a character: a unified ideograph (Unicode's Unified_Ideograph) or 〇.
bool IsHan(char32_t character);

// The full-width mark that `character` is or stands for: ，。、；：！？ and the half-width , ; : !
// ? that a tokenizer with NFKC writes for them. 0 for anything else.
char32_t VerseMark(char32_t character);

// The characters of `text`; ill-formed parts become U+FFFD.
std::u32string Characters(std::string_view text);
std::string Utf8(std::u32string_view characters);
std::string Utf8(char32_t character);

// The clauses of `text`, without punctuation and white space between them; never empty ones.
std::vector<std::string> Clauses(std::string_view text);

}  // namespace qianyi
