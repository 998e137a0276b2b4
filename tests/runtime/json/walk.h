// Texts written under a constraint by drawing from what its mask leaves.
#pragma once

#include <cmath>
#include <cstdint>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/constraint.h"
#include "runtime/tokenizers/tokenizer.h"

namespace qianyi::testing {

// Token 0 is the end, then all 256 bytes, then `more`.
class ByteVocabulary final : public Tokenizer {
 public:
  explicit ByteVocabulary(const std::vector<std::string>& more) : tokens_(1) {
    for (int byte = 0; byte < 256; ++byte) tokens_.emplace_back(1, static_cast<char>(byte));
    tokens_.insert(tokens_.end(), more.begin(), more.end());
  }
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view, bool) const override {
    return absl::UnimplementedError("not for these tests");
  }
  absl::StatusOr<std::string> Decode(std::span<const int32_t>) const override {
    return absl::UnimplementedError("not for these tests");
  }
  std::string_view TokenBytes(int32_t id) const override { return tokens_[size_t(id)]; }
  std::string_view NextBytes(int32_t id, bool*) const override { return tokens_[size_t(id)]; }
  int32_t vocab_size() const override { return static_cast<int32_t>(tokens_.size()); }
  int32_t CommandId(std::string_view) const override { return -1; }

 private:
  std::vector<std::string> tokens_;
};

inline std::vector<std::string> SomeTokens() {
  return {"{\"",      "\":",    "\": \"", "\",",   "\", \"", "\"}",  "}}",     "]}",   " ",
          "  ",       "\n  ",   "true",   "false", "null",   "12",   "-1",     "0.5",  "e1",
          "a",        "ab",     "abc",    "value", "春",     "春风", "夏\"",   "\xE6", "\x98\xA5",
          "\xE6\x98", "\xA5\"", "\\n",    "\\\"",  "\\u00",  "name", "name\"", "kind", "😀",
          "[",        "[1,",    "],",     "\xFF",  "\"春\"", "1}"};
}

// What it wrote when it ended within `most` tokens. Half of the time only what is no text of
// strings is drawn from, where there is such: else they would hardly ever end.
inline std::optional<std::string> Walk(Constraint& constraint, const Tokenizer& tokenizer,
                                       uint64_t seed, int most) {
  std::mt19937_64 random(seed);
  std::vector<float> logits(static_cast<size_t>(tokenizer.vocab_size()));
  std::string text;
  for (int i = 0; i < most; ++i) {
    logits.assign(logits.size(), 0.0f);
    constraint.Mask(logits);
    std::vector<int32_t> all, structure;
    for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
      if (std::isinf(logits[size_t(id)])) continue;
      all.push_back(id);
      const std::string_view bytes = tokenizer.TokenBytes(id);
      if (id == 0 || bytes.find_first_of("\"{}[]") != bytes.npos) structure.push_back(id);
    }
    const auto& from = structure.empty() || random() % 2 == 0 ? all : structure;
    const int32_t token = from[random() % from.size()];
    if (token == 0) return text;
    text += tokenizer.TokenBytes(token);
    constraint.Accept(token);
  }
  return std::nullopt;
}

}  // namespace qianyi::testing
