// The printable characters that byte-level vocabularies write bytes as (Radford et al. 2019):
// a byte that prints in Latin-1 is itself, the others are numbered from U+0100 in byte order.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace qianyi {

char32_t ByteCharacter(uint8_t byte);
// The byte a character stands for, or -1.
int CharacterByte(char32_t character);

// The bytes a vocabulary entry, which is well-formed UTF-8, stands for. A character outside the
// alphabet (an added token may have one) stands for its own UTF-8.
std::string ByteLevelText(std::string_view token);

}  // namespace qianyi
