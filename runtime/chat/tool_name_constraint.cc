#include "runtime/chat/tool_name_constraint.h"

#include <algorithm>
#include <cstddef>
#include <limits>
#include <utility>

namespace qianyi {
namespace {

class ToolNameConstraint final : public Constraint {
 public:
  ToolNameConstraint(const Tokenizer& tokenizer, std::vector<std::string> texts)
      : tokenizer_(tokenizer), texts_(std::move(texts)) {
    size_t longest = 0;
    for (const std::string& text : texts_) longest = std::max(longest, text.size());
    for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
      const std::string_view bytes = tokenizer.TokenBytes(id);
      if (bytes.empty() || !MayBegin(bytes[0])) continue;
      candidates_.push_back(id);
      longest_token_ = std::max(longest_token_, bytes.size());
    }
    written_.reserve(longest + longest_token_);
    kept_.reserve(candidates_.size());
  }

  void Mask(std::span<float> logits) override {
    if (done_) return;
    kept_.clear();
    for (const int32_t id : candidates_) {
      if (static_cast<size_t>(id) >= logits.size() || !GoesOn(tokenizer_.TokenBytes(id))) continue;
      kept_.emplace_back(id, logits[static_cast<size_t>(id)]);
    }
    if (kept_.empty()) {
      done_ = true;
      return;
    }
    std::fill(logits.begin(), logits.end(), -std::numeric_limits<float>::infinity());
    for (const auto& [id, logit] : kept_) logits[static_cast<size_t>(id)] = logit;
  }

  void Accept(int32_t token) override {
    if (done_) return;
    std::string_view bytes = tokenizer_.TokenBytes(token);
    if (written_.empty() && bytes.starts_with(' ')) bytes.remove_prefix(1);
    if (written_.size() + bytes.size() > written_.capacity()) {
      done_ = true;  // more than any text: it was not masked
      return;
    }
    written_ += bytes;
    done_ = std::any_of(texts_.begin(), texts_.end(), [&](const std::string& text) {
      return written_.size() >= text.size() && written_.starts_with(text);
    });
  }

 private:
  bool MayBegin(char byte) const {
    return byte == ' ' || std::any_of(texts_.begin(), texts_.end(), [&](const std::string& text) {
             return text.find(byte) != std::string::npos;
           });
  }

  // Whether what is written and `bytes` are the beginning of a text, or go beyond one.
  bool GoesOn(std::string_view bytes) const {
    if (written_.empty() && bytes.starts_with(' ')) bytes.remove_prefix(1);
    if (bytes.empty()) return false;
    return std::any_of(texts_.begin(), texts_.end(), [&](std::string_view text) {
      if (!text.starts_with(written_)) return false;
      text.remove_prefix(written_.size());
      const size_t common = std::min(text.size(), bytes.size());
      return text.substr(0, common) == bytes.substr(0, common);
    });
  }

  const Tokenizer& tokenizer_;
  const std::vector<std::string> texts_;
  std::vector<int32_t> candidates_;  // tokens that can be part of a text
  size_t longest_token_ = 0;
  std::vector<std::pair<int32_t, float>> kept_;  // scratch
  std::string written_;
  bool done_ = false;
};

}  // namespace

std::unique_ptr<Constraint> MakeToolNameConstraint(const Tokenizer& tokenizer,
                                                   std::span<const std::string> names,
                                                   std::span<const std::string_view> after) {
  std::vector<std::string> texts;
  for (const std::string& name : names) {
    for (const std::string_view end : after) texts.push_back(name + std::string(end));
  }
  return std::make_unique<ToolNameConstraint>(tokenizer, std::move(texts));
}

}  // namespace qianyi
