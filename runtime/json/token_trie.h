// The bytes of a vocabulary's tokens as a tree, so that what they begin with in common is looked
// at once.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/tokenizers/tokenizer.h"

namespace qianyi {

// Built once per tokenizer, which outlives it; immutable afterwards, thread-safe. Command
// tokens and those of more than kMaxBytes are left out; so are parts of characters, unless the
// vocabulary can complete every one of them byte by byte.
class TokenTrie {
 public:
  static constexpr size_t kMaxBytes = 64;

  // In the order of a walk through the tree: a node, then all below it.
  struct Node {
    uint32_t next = 0;        // the first one that is not below it
    uint32_t tokens = 0;      // the first of its own and of those below, in Part::tokens
    uint32_t own_end = 0;     // behind its own
    uint16_t characters = 0;  // the most that begin below it in one token
    uint8_t depth = 0;        // bytes from the root, itself included
    uint8_t byte = 0;
  };
  struct Part {
    std::vector<Node> nodes;
    std::vector<int32_t> tokens;
    uint16_t characters = 0;

    // All tokens at a node and below.
    std::span<const int32_t> Below(const Node& node) const {
      const size_t end = node.next < nodes.size() ? nodes[node.next].tokens : tokens.size();
      return std::span(tokens).subspan(node.tokens, end - node.tokens);
    }
    std::span<const int32_t> Own(const Node& node) const {
      return std::span(tokens).subspan(node.tokens, node.own_end - node.tokens);
    }
  };

  explicit TokenTrie(const Tokenizer& tokenizer);

  int32_t vocab_size() const { return tokenizer_.vocab_size(); }
  std::string_view Bytes(int32_t token) const { return tokenizer_.TokenBytes(token); }
  // Whole characters only, that a JSON string can have as they are.
  const Part& plain() const { return plain_; }
  const Part& others() const { return others_; }
  // Empty when every character of `text` is a token, or its bytes are; else one that is not.
  std::string_view CannotWrite(std::string_view text) const;

 private:
  using Entry = std::pair<std::string_view, int32_t>;
  static Part Build(std::vector<Entry> entries);
  bool HasToken(std::string_view bytes) const;

  const Tokenizer& tokenizer_;
  std::array<bool, 256> single_{};  // bytes that are a token
  Part plain_, others_;
};

}  // namespace qianyi
