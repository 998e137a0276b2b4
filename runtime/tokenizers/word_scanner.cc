#include "runtime/tokenizers/word_scanner.h"

#include <unicode/uchar.h>

#include <array>
#include <cstdint>

#include "runtime/tokenizers/utf8.h"

namespace qianyi {
namespace {

enum class Class : uint8_t { kSpace, kLetter, kNumber, kOther };

Class Classify(char32_t character) {
  const UChar32 c = static_cast<UChar32>(character);
  if (u_isUWhiteSpace(c)) return Class::kSpace;
  const uint32_t category = U_GET_GC_MASK(c);
  if (category & U_GC_L_MASK) return Class::kLetter;
  if (category & U_GC_N_MASK) return Class::kNumber;
  return Class::kOther;
}

struct Seen {
  Class kind;
  size_t bytes;
};

// The class and length of the character at the start of `text`.
Seen Look(std::string_view text) {
  static const std::array<Class, 128> kAscii = [] {
    std::array<Class, 128> table{};
    for (size_t i = 0; i < table.size(); ++i) table[i] = Classify(static_cast<char32_t>(i));
    return table;
  }();
  const uint8_t lead = static_cast<uint8_t>(text[0]);
  if (lead < 128) return {kAscii[lead], 1};
  return {Classify(FirstCharacter(text)), lead < 0xE0 ? size_t{2} : lead < 0xF0 ? 3u : 4u};
}

// Bytes of a contraction at the start, or 0. Lower case and the ASCII apostrophe only; what
// follows does not matter, so "'sun" is cut after "'s".
size_t Contraction(std::string_view text) {
  if (text[0] != '\'' || text.size() < 2) return 0;
  const char first = text[1];
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return 2;
  if (text.size() < 3) return 0;
  const std::string_view two = text.substr(1, 2);
  return two == "re" || two == "ve" || two == "ll" ? 3 : 0;
}

}  // namespace

size_t FirstWord(std::string_view text) {
  if (const size_t bytes = Contraction(text)) return bytes;
  size_t at = text[0] == ' ' ? 1 : 0;
  if (at < text.size()) {
    const Class kind = Look(text.substr(at)).kind;
    if (kind != Class::kSpace) {
      while (at < text.size()) {
        const Seen seen = Look(text.substr(at));
        if (seen.kind != kind) break;
        at += seen.bytes;
      }
      return at;
    }
  }
  // White space: all of it at the end of the text, else all but its last character, unless
  // that is all there is.
  at = 0;
  size_t last = 0;
  while (at < text.size()) {
    const Seen seen = Look(text.substr(at));
    if (seen.kind != Class::kSpace) return last == 0 ? at : last;
    last = at;
    at += seen.bytes;
  }
  return at;
}

}  // namespace qianyi
