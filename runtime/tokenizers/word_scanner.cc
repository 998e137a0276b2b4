#include "runtime/tokenizers/word_scanner.h"

#include <unicode/uchar.h>

#include <array>
#include <cstdint>
#include <limits>

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

// Bytes of a contraction at the start, or 0. The ASCII apostrophe only; what follows does not
// matter, so "'sun" is cut after "'s".
size_t Contraction(std::string_view text) {
  if (text[0] != '\'' || text.size() < 2) return 0;
  const char first = text[1];
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return 2;
  if (text.size() < 3) return 0;
  const std::string_view two = text.substr(1, 2);
  return two == "re" || two == "ve" || two == "ll" ? 3 : 0;
}

// The same in either case. U+017F, the long s, is an s without case.
size_t ContractionOfAnyCase(std::string_view text) {
  if (text.substr(0, 3) == "'\xC5\xBF") return 3;
  char lower[3] = {};
  const size_t bytes = text.size() < 3 ? text.size() : 3;
  for (size_t i = 0; i < bytes; ++i) {
    lower[i] = text[i] >= 'A' && text[i] <= 'Z' ? static_cast<char>(text[i] | 0x20) : text[i];
  }
  return Contraction(std::string_view(lower, bytes));
}

// Where the run of characters of `kind` that begins at `at` ends, after `most` at most.
size_t RunEnd(std::string_view text, size_t at, Class kind,
              size_t most = std::numeric_limits<size_t>::max()) {
  for (; at < text.size() && most > 0; --most) {
    const Seen seen = Look(text.substr(at));
    if (seen.kind != kind) break;
    at += seen.bytes;
  }
  return at;
}

bool IsBreak(char byte) { return byte == '\r' || byte == '\n'; }

// White space: all of it at the end of the text, else all but its last character, unless that is
// all there is. With `breaks`, up to the last line break if there is one.
size_t SpaceEnd(std::string_view text, bool breaks) {
  size_t at = 0;
  size_t last = 0;
  size_t after_break = 0;
  while (at < text.size()) {
    const Seen seen = Look(text.substr(at));
    if (seen.kind != Class::kSpace) break;
    last = at;
    at += seen.bytes;
    if (IsBreak(text[last])) after_break = at;
  }
  if (breaks && after_break > 0) return after_break;
  return at == text.size() || last == 0 ? at : last;
}

size_t Gpt2Word(std::string_view text) {
  if (const size_t bytes = Contraction(text)) return bytes;
  const size_t at = text[0] == ' ' ? 1 : 0;
  if (at < text.size()) {
    const Class kind = Look(text.substr(at)).kind;
    if (kind != Class::kSpace) return RunEnd(text, at, kind);
  }
  return SpaceEnd(text, /*breaks=*/false);
}

size_t Glm4Word(std::string_view text) {
  if (const size_t bytes = ContractionOfAnyCase(text)) return bytes;
  const Seen first = Look(text);
  if (first.kind == Class::kLetter) return RunEnd(text, 0, Class::kLetter);
  if (first.kind == Class::kNumber) return RunEnd(text, 0, Class::kNumber, 3);
  if (!IsBreak(text[0])) {
    const size_t end = RunEnd(text, first.bytes, Class::kLetter);
    if (end > first.bytes) return end;
  }
  const size_t at = text[0] == ' ' ? 1 : 0;
  size_t end = RunEnd(text, at, Class::kOther);
  if (end == at) return SpaceEnd(text, /*breaks=*/true);
  while (end < text.size() && IsBreak(text[end])) ++end;
  return end;
}

struct NamedPattern {
  std::string_view regex;
  WordPattern pattern;
};

constexpr NamedPattern kPatterns[] = {
    {R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)",
     WordPattern::kGpt2},
    {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|)"
     R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     WordPattern::kGlm4},
};

}  // namespace

std::optional<WordPattern> FindWordPattern(std::string_view regex) {
  for (const NamedPattern& named : kPatterns) {
    if (named.regex == regex) return named.pattern;
  }
  return std::nullopt;
}

size_t FirstWord(std::string_view text, WordPattern pattern) {
  return pattern == WordPattern::kGpt2 ? Gpt2Word(text) : Glm4Word(text);
}

}  // namespace qianyi
