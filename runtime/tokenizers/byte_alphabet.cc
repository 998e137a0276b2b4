#include "runtime/tokenizers/byte_alphabet.h"

#include <array>
#include <cstddef>

#include "runtime/tokenizers/utf8.h"

namespace qianyi {
namespace {

struct ByteAlphabet {
  std::array<char32_t, 256> character;
  std::array<int16_t, 512> byte;  // -1 when the character stands for none

  ByteAlphabet() : character{} {
    byte.fill(-1);
    char32_t next = 0x100;
    for (int i = 0; i < 256; ++i) {
      const bool prints = (i >= 0x21 && i <= 0x7E) || (i >= 0xA1 && i <= 0xAC) || i >= 0xAE;
      character[static_cast<size_t>(i)] = prints ? static_cast<char32_t>(i) : next++;
      byte[character[static_cast<size_t>(i)]] = static_cast<int16_t>(i);
    }
  }
};

const ByteAlphabet& Alphabet() {
  static const ByteAlphabet alphabet;
  return alphabet;
}

}  // namespace

char32_t ByteCharacter(uint8_t byte) { return Alphabet().character[byte]; }

int CharacterByte(char32_t character) {
  return character < Alphabet().byte.size() ? Alphabet().byte[character] : -1;
}

std::string ByteLevelText(std::string_view token) {
  std::string text;
  while (!token.empty()) {
    const Utf8Step step = StepUtf8(token);
    const int byte = CharacterByte(FirstCharacter(token));
    if (byte >= 0) {
      text.push_back(static_cast<char>(byte));
    } else {
      text.append(token.substr(0, step.bytes));
    }
    token.remove_prefix(step.bytes);
  }
  return text;
}

}  // namespace qianyi
