// Writes small sentencepiece models, sound and broken ones.
#pragma once

#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/tokenizers/sentencepiece_model.h"

namespace qianyi {

inline std::string Varint(uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes += static_cast<char>(0x80 | (value & 0x7F));
  return bytes + static_cast<char>(value);
}
inline std::string NumberField(int number, uint64_t value) {
  return Varint(static_cast<uint64_t>(number) << 3) + Varint(value);
}
inline std::string BytesField(int number, std::string_view bytes) {
  return Varint(static_cast<uint64_t>(number) << 3 | 2) + Varint(bytes.size()) + std::string(bytes);
}
inline std::string FloatField(int number, float value) {
  std::string bytes = Varint(static_cast<uint64_t>(number) << 3 | 5) + std::string(4, '\0');
  std::memcpy(bytes.data() + bytes.size() - 4, &value, 4);
  return bytes;
}

struct SentencePieceFile {
  using Type = SentencePieceModel::Type;

  std::vector<SentencePieceModel::Piece> pieces = {
      {"<unk>", 0, Type::kUnknown}, {"<s>", 0, Type::kControl}, {"</s>", 0, Type::kControl}};
  std::string trainer = NumberField(3, 2);  // BPE
  std::string normalizer;

  void Add(const std::string& text, float score, Type type = Type::kNormal) {
    pieces.push_back({text, score, type});
  }
  std::string Bytes() const {
    std::string file;
    for (const SentencePieceModel::Piece& piece : pieces) {
      file += BytesField(1, BytesField(1, piece.text) + FloatField(2, piece.score) +
                                NumberField(3, static_cast<uint64_t>(piece.type)));
    }
    return file + BytesField(2, trainer) + BytesField(3, normalizer);
  }
};

// A normalizer's table in darts-clone's layout: single bytes and what replaces them. The root
// sits at 0 with its children in the block at 256, each with its value in a block of its own.
inline std::string ByteReplacements(const std::map<uint8_t, std::string>& rules) {
  std::string replacements;
  std::vector<uint32_t> trie(256 * (rules.size() + 2), 0);
  trie[0] = 256u << 10;
  uint32_t block = 512;
  for (const auto& [byte, replacement] : rules) {
    const uint32_t child = 256u + byte;
    const uint32_t value_at = block;
    // offset ^ child == value_at; bit 8: a value follows; the low byte is the label.
    trie[child] = ((child ^ value_at) << 10) | 1u << 8 | byte;
    trie[value_at] = 0x80000000u | static_cast<uint32_t>(replacements.size());
    replacements += replacement + '\0';
    block += 256;
  }
  std::string table(4 + trie.size() * 4, '\0');
  const uint32_t trie_bytes = static_cast<uint32_t>(trie.size() * 4);
  std::memcpy(table.data(), &trie_bytes, 4);
  std::memcpy(table.data() + 4, trie.data(), trie_bytes);
  return table + replacements;
}

}  // namespace qianyi
