#include "runtime/json/token_trie.h"

#include <algorithm>

#include "runtime/tokenizers/utf8.h"

namespace qianyi {
namespace {

bool BeginsCharacter(uint8_t byte) { return (byte & 0xC0) != 0x80; }

bool IsPlain(std::string_view bytes) {
  return std::none_of(bytes.begin(), bytes.end(), [](char byte) {
    return static_cast<uint8_t>(byte) < 0x20 || byte == '"' || byte == '\\';
  });
}

}  // namespace

TokenTrie::TokenTrie(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {
  std::vector<Entry> plain, others, parts;
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    const std::string_view bytes = tokenizer.TokenBytes(id);
    if (bytes.empty() || bytes.size() > kMaxBytes || tokenizer.WordId(bytes) == id) continue;
    if (bytes.size() == 1) single_[static_cast<uint8_t>(bytes[0])] = true;
    const bool whole = WellFormedPrefix(bytes) == bytes.size();
    (!whole ? parts : IsPlain(bytes) ? plain : others).emplace_back(bytes, id);
  }
  const bool completes = std::all_of(single_.begin() + 0x80, single_.begin() + 0xC0,
                                     [](bool is_token) { return is_token; });
  if (completes) others.insert(others.end(), parts.begin(), parts.end());
  plain_ = Build(std::move(plain));
  others_ = Build(std::move(others));
}

TokenTrie::Part TokenTrie::Build(std::vector<Entry> entries) {
  std::sort(entries.begin(), entries.end());
  Part part;
  std::vector<uint32_t> open;     // nodes from the root down
  std::vector<uint32_t> parents;  // by node; itself: at the root
  std::string_view before;
  const auto close = [&](size_t depth) {
    for (; open.size() > depth; open.pop_back()) {
      part.nodes[open.back()].next = static_cast<uint32_t>(part.nodes.size());
    }
  };
  for (const auto& [bytes, id] : entries) {
    const uint32_t at = static_cast<uint32_t>(part.tokens.size());
    const size_t common = static_cast<size_t>(
        std::mismatch(before.begin(), before.end(), bytes.begin(), bytes.end()).first -
        before.begin());
    close(common);
    for (size_t depth = common; depth < bytes.size(); ++depth) {
      const uint32_t node = static_cast<uint32_t>(part.nodes.size());
      parents.push_back(open.empty() ? node : open.back());
      open.push_back(node);
      part.nodes.push_back({.tokens = at,
                            .own_end = at,
                            .depth = static_cast<uint8_t>(depth + 1),
                            .byte = static_cast<uint8_t>(bytes[depth])});
    }
    part.tokens.push_back(id);
    part.nodes[open.back()].own_end = at + 1;
    before = bytes;
  }
  close(0);
  for (size_t i = part.nodes.size(); i-- > 0;) {
    const Node& node = part.nodes[i];
    const uint16_t with = static_cast<uint16_t>(node.characters + BeginsCharacter(node.byte));
    uint16_t& above = parents[i] == i ? part.characters : part.nodes[parents[i]].characters;
    above = std::max(above, with);
  }
  return part;
}

bool TokenTrie::HasToken(std::string_view bytes) const {
  for (const Part* part : {&plain_, &others_}) {
    size_t depth = 0;
    for (size_t i = 0; i < part->nodes.size();) {
      const Node& node = part->nodes[i];
      if (node.depth != depth + 1) break;  // behind all that begin alike
      if (node.byte != static_cast<uint8_t>(bytes[depth])) {
        i = node.next;
        continue;
      }
      if (++depth < bytes.size()) {
        ++i;
        continue;
      }
      if (node.own_end > node.tokens) return true;
      break;
    }
  }
  return false;
}

std::string_view TokenTrie::CannotWrite(std::string_view text) const {
  while (!text.empty()) {
    const std::string_view character = text.substr(0, StepUtf8(text).bytes);
    const bool by_bytes = std::all_of(character.begin(), character.end(), [this](char byte) {
      return single_[static_cast<uint8_t>(byte)];
    });
    if (!by_bytes && !HasToken(character)) return character;
    text.remove_prefix(character.size());
  }
  return {};
}

}  // namespace qianyi
