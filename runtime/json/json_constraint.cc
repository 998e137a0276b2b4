#include "runtime/json/json_constraint.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <limits>
#include <span>
#include <string>
#include <utility>

#include "absl/strings/str_format.h"
#include "runtime/json/json_machine.h"

namespace qianyi {
namespace {

constexpr float kOut = -std::numeric_limits<float>::infinity();
// Of one mask, in bytes of tokens times ways to read them: far above what schemas need that are
// not made to be slow.
constexpr int64_t kMaxSteps = 4 << 20;

class JsonConstraint final : public Constraint {
  using Threads = JsonMachine::Threads;

 public:
  JsonConstraint(const TokenTrie& trie, JsonSchema schema, std::vector<int32_t> end_tokens)
      : trie_(trie),
        machine_(std::move(schema)),
        end_tokens_(std::move(end_tokens)),
        allowed_(static_cast<size_t>(trie.vocab_size())),
        levels_(TokenTrie::kMaxBytes + 1) {
    machine_.Start(&levels_[0]);
  }

  void Mask(std::span<float> logits) override {
    std::fill(allowed_.begin(), allowed_.end(), uint8_t{0});
    steps_ = 0;
    any_ = false;
    if (!broken_) {
      Walk(trie_.others(), /*plain=*/false);
      Walk(trie_.plain(), /*plain=*/true);
    }
    const bool may_end = broken_ || !any_ || machine_.MayEnd(levels_[0]);
    for (const int32_t end : end_tokens_) {  // also where one of them has a text
      if (static_cast<size_t>(end) < allowed_.size()) allowed_[static_cast<size_t>(end)] = may_end;
    }
    const size_t known = std::min(logits.size(), allowed_.size());
    for (size_t id = 0; id < known; ++id) logits[id] = allowed_[id] != 0 ? logits[id] : kOut;
    KeepEndsBeyond(logits.subspan(known), known, may_end);
  }

  // A token that Mask took away comes only when no other had a number for a logit: the text can
  // then just end.
  void Accept(int32_t token) override {
    const std::string_view bytes = trie_.Bytes(token);
    Threads* from = &levels_[0];
    Threads* to = &levels_[1];
    for (const char byte : bytes) {
      machine_.Step(*from, static_cast<uint8_t>(byte), to);
      std::swap(from, to);
    }
    broken_ = broken_ || bytes.empty() || from->count == 0;
    if (broken_) return;
    if (from != &levels_[0]) levels_[0] = *from;
    machine_.Keep(&levels_[0]);
  }

 private:
  void Allow(std::span<const int32_t> tokens) {
    for (const int32_t token : tokens) allowed_[static_cast<size_t>(token)] = 1;
    any_ = any_ || !tokens.empty();
  }

  void Walk(const TokenTrie::Part& part, bool plain) {
    const size_t base = machine_.mark();
    marks_[0] = base;
    if (plain && machine_.FreeCharacters(levels_[0]) >= std::max<int32_t>(part.characters, 1)) {
      Allow(part.tokens);
      return;
    }
    for (size_t i = 0; i < part.nodes.size();) {
      const TokenTrie::Node& node = part.nodes[i];
      const Threads& from = levels_[node.depth - 1u];
      Threads& here = levels_[node.depth];
      machine_.Forget(marks_[node.depth - 1u]);
      machine_.Step(from, node.byte, &here);
      marks_[node.depth] = machine_.mark();
      steps_ += from.count;
      if (steps_ > kMaxSteps && any_) break;
      if (here.count == 0) {
        i = node.next;
      } else if (plain && machine_.FreeCharacters(here) >= std::max<int32_t>(node.characters, 1)) {
        Allow(part.Below(node));
        i = node.next;
      } else {
        Allow(part.Own(node));
        ++i;
      }
    }
    machine_.Forget(base);
  }

  // Of a model with more logits than tokens.
  void KeepEndsBeyond(std::span<float> logits, size_t first, bool may_end) {
    for (size_t i = 0; i < logits.size(); ++i) {
      const int32_t id = static_cast<int32_t>(first + i);
      const bool end = std::find(end_tokens_.begin(), end_tokens_.end(), id) != end_tokens_.end();
      if (!may_end || !end) logits[i] = kOut;
    }
  }

  const TokenTrie& trie_;
  JsonMachine machine_;
  const std::vector<int32_t> end_tokens_;
  std::vector<uint8_t> allowed_;  // by token
  std::vector<Threads> levels_;   // by bytes of a token that is tried; the first is what is written
  std::array<size_t, TokenTrie::kMaxBytes + 1> marks_{};
  int64_t steps_ = 0;
  bool any_ = false;
  bool broken_ = false;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Constraint>> MakeJsonConstraint(const TokenTrie& trie,
                                                               JsonSchema schema,
                                                               std::vector<int32_t> end_tokens) {
  if (end_tokens.empty()) {
    return absl::InvalidArgumentError("the model has no end token, so that no form can end");
  }
  const std::string_view missing = trie.CannotWrite(schema.needed);
  if (!missing.empty()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("the model's vocabulary cannot write '%s', which the form needs", missing));
  }
  return std::make_unique<JsonConstraint>(trie, std::move(schema), std::move(end_tokens));
}

}  // namespace qianyi
