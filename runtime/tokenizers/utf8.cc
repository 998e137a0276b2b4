#include "runtime/tokenizers/utf8.h"

namespace qianyi {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

bool IsContinuation(char byte) { return (static_cast<uint8_t>(byte) & 0xC0) == 0x80; }

}  // namespace

Utf8Step StepUtf8(std::string_view text) {
  using Kind = Utf8Step::Kind;
  const uint8_t lead = static_cast<uint8_t>(text[0]);
  if (lead < 0x80) return {Kind::kCharacter, 1};
  uint8_t length = 0;
  uint8_t low = 0x80;  // bounds of the second byte: no overlong forms, no surrogates
  uint8_t high = 0xBF;
  if (lead >= 0xC2 && lead <= 0xDF) {
    length = 2;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    length = 3;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    length = 4;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
  } else {
    return {Kind::kIllFormed, 1};
  }
  for (uint8_t i = 1; i < length; ++i) {
    if (i >= text.size()) return {Kind::kIncomplete, i};
    const uint8_t byte = static_cast<uint8_t>(text[i]);
    if (byte < low || byte > high) return {Kind::kIllFormed, i};
    low = 0x80;
    high = 0xBF;
  }
  return {Kind::kCharacter, length};
}

size_t WellFormedPrefix(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    const Utf8Step step = StepUtf8(text.substr(at));
    if (step.kind != Utf8Step::Kind::kCharacter) return at;
    at += step.bytes;
  }
  return at;
}

size_t AppendRepaired(std::string_view bytes, bool last, std::string* out) {
  size_t at = 0;
  while (true) {
    const size_t good = WellFormedPrefix(bytes.substr(at));
    out->append(bytes.substr(at, good));
    at += good;
    if (at == bytes.size()) return at;
    const Utf8Step step = StepUtf8(bytes.substr(at));
    if (step.kind == Utf8Step::Kind::kIncomplete && !last) return at;
    out->append(kReplacement);
    at += step.bytes;
  }
}

char32_t FirstCharacter(std::string_view text) {
  const uint8_t lead = static_cast<uint8_t>(text[0]);
  if (lead < 0x80) return lead;
  const int length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  char32_t character = lead & (0x7F >> length);
  for (int i = 1; i < length; ++i) {
    character = (character << 6) | (static_cast<uint8_t>(text[i]) & 0x3F);
  }
  return character;
}

void AppendCharacter(char32_t character, std::string* out) {
  if (character < 0x80) {
    out->push_back(static_cast<char>(character));
    return;
  }
  const int more = character < 0x800 ? 1 : character < 0x10000 ? 2 : 3;
  const char32_t marker = more == 1 ? 0xC0 : more == 2 ? 0xE0 : 0xF0;
  out->push_back(static_cast<char>(marker | (character >> (6 * more))));
  for (int i = more - 1; i >= 0; --i) {
    out->push_back(static_cast<char>(0x80 | ((character >> (6 * i)) & 0x3F)));
  }
}

bool IsPythonSpace(char32_t character) {
  if (character <= 0x20) return character >= 0x1C || (character >= 0x09 && character <= 0x0D);
  if (character < 0x1680) return character == 0x85 || character == 0xA0;
  return character == 0x1680 || (character >= 0x2000 && character <= 0x200A) ||
         character == 0x2028 || character == 0x2029 || character == 0x202F || character == 0x205F ||
         character == 0x3000;
}

std::string_view StripRight(std::string_view text) {
  while (!text.empty()) {
    size_t start = text.size() - 1;
    while (start > 0 && IsContinuation(text[start])) --start;
    if (!IsPythonSpace(FirstCharacter(text.substr(start)))) break;
    text = text.substr(0, start);
  }
  return text;
}

std::string_view StripLeft(std::string_view text) {
  while (!text.empty() && IsPythonSpace(FirstCharacter(text))) {
    text.remove_prefix(StepUtf8(text).bytes);
  }
  return text;
}

bool IsBlank(std::string_view text) { return StripRight(text).empty(); }

}  // namespace qianyi
