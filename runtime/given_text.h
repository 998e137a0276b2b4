// A text that comes as it was given, token by token, whatever a model would rather write: how texts
// are scored.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "runtime/constraint.h"

namespace qianyi {

// Of a request whose max_tokens is the length of the text. Tokens are scored among all tokens.
class GivenText : public Constraint {
 public:
  explicit GivenText(std::vector<int32_t> tokens) : tokens_(std::move(tokens)) {}
  void Mask(std::span<float>) override {}
  std::span<const int32_t> Forced() const override { return std::span(tokens_).subspan(next_); }
  void Accept(int32_t) override { ++next_; }

 private:
  const std::vector<int32_t> tokens_;
  size_t next_ = 0;
};

}  // namespace qianyi
