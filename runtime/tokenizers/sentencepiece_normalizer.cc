#include "runtime/tokenizers/sentencepiece_normalizer.h"

#include <algorithm>
#include <cstdint>

#include "runtime/tokenizers/utf8.h"

namespace qianyi {
namespace {

// One unit of a darts-clone double array: a label to compare, the offset of the children
// (xor-ed with the node's index and the byte), or, with the top bit set, a value.
uint32_t Label(uint32_t unit) { return unit & 0x800000FFu; }
bool HasValue(uint32_t unit) { return (unit >> 8) & 1; }
uint32_t Offset(uint32_t unit) { return (unit >> 10) << ((unit & (1u << 9)) >> 6); }
uint32_t Value(uint32_t unit) { return unit & 0x7FFFFFFFu; }

bool EndsWith(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

}  // namespace

LongestWord UserDefinedPieces(const SentencePieceModel& model) {
  LongestWord words;
  for (const SentencePieceModel::Piece& piece : model.pieces) {
    if (piece.type == SentencePieceModel::Type::kUserDefined) words.Add(piece.text);
  }
  return words;
}

// A link that leads out of the table ends the search: a sound table has none.
bool SentencePieceNormalizer::LongestRule(std::string_view text, Prefix* prefix) const {
  const std::vector<uint32_t>& trie = model_.trie;
  if (trie.empty()) return false;
  bool found = false;
  size_t node = Offset(trie[0]);
  for (size_t i = 0; i < text.size(); ++i) {
    const uint8_t byte = static_cast<uint8_t>(text[i]);
    node ^= byte;
    if (node >= trie.size() || Label(trie[node]) != byte) break;
    const uint32_t unit = trie[node];
    node ^= Offset(unit);
    if (!HasValue(unit)) continue;
    if (node >= trie.size() || Value(trie[node]) >= model_.replacements.size()) break;
    const std::string_view rest = std::string_view(model_.replacements).substr(Value(trie[node]));
    *prefix = {rest.substr(0, rest.find('\0')), i + 1};
    found = true;
  }
  return found;
}

SentencePieceNormalizer::Prefix SentencePieceNormalizer::First(std::string_view text) const {
  Prefix prefix;
  if (const size_t bytes = user_defined_.Match(text)) return {text.substr(0, bytes), bytes};
  if (LongestRule(text, &prefix)) return prefix;
  // A rule may have ended inside a character, if the table is odd enough.
  const Utf8Step step = StepUtf8(text);
  if (step.kind != Utf8Step::Kind::kCharacter) return {"\xEF\xBF\xBD", 1};
  return {text.substr(0, step.bytes), step.bytes};
}

std::string SentencePieceNormalizer::Normalize(std::string_view text) const {
  const bool collapse = model_.remove_extra_whitespaces;
  if (collapse) {
    while (!text.empty()) {
      const Prefix prefix = First(text);
      if (prefix.replacement != " ") break;
      text.remove_prefix(prefix.bytes);
    }
  }
  std::string out;
  if (text.empty()) return out;
  out.reserve(text.size() + text.size() / 2);
  const std::string_view space = model_.escape_whitespaces ? kSpaceMark : " ";
  if (model_.add_dummy_prefix) out += space;
  bool after_space = collapse;
  while (!text.empty()) {
    const Prefix prefix = First(text);
    text.remove_prefix(prefix.bytes);
    std::string_view replacement = prefix.replacement;
    if (after_space) {
      replacement.remove_prefix(std::min(replacement.find_first_not_of(' '), replacement.size()));
    }
    if (replacement.empty()) continue;
    for (const char byte : replacement) {
      if (byte == ' ') {
        out += space;
      } else {
        out += byte;
      }
    }
    after_space = collapse && replacement.back() == ' ';
  }
  if (collapse) {
    while (EndsWith(out, space)) out.resize(out.size() - space.size());
  }
  return out;
}

}  // namespace qianyi
