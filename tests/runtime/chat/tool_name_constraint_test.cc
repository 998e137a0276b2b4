#include "runtime/chat/tool_name_constraint.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "tests/runtime/chat/chat_testing.h"

namespace qianyi {
namespace {

constexpr std::string_view kLine[] = {"\n"};

// What may come next, as text.
std::vector<std::string> Allowed(Constraint& constraint, const Tokenizer& tokenizer) {
  std::vector<float> logits(static_cast<size_t>(tokenizer.vocab_size()), 1.0f);
  constraint.Mask(logits);
  std::vector<std::string> allowed;
  for (size_t id = 0; id < logits.size(); ++id) {
    if (std::isinf(logits[id])) continue;
    allowed.emplace_back(tokenizer.TokenBytes(static_cast<int32_t>(id)));
  }
  return allowed;
}

TEST(ToolNameConstraint, OnlyNamesCanBeWritten) {
  const Tokenizer& tokenizer = GlmTokenizer();
  const std::vector<std::string> names = {"now", "not_now", "get"};
  // Every walk that takes any of the allowed tokens ends in a name and what is after it.
  for (int walk = 0; walk < 50; ++walk) {
    const auto constraint = MakeToolNameConstraint(tokenizer, names, kLine);
    std::string written;
    for (int step = 0; written.find('\n') == std::string::npos; ++step) {
      ASSERT_LT(step, 20) << written;
      const std::vector<std::string> allowed = Allowed(*constraint, tokenizer);
      ASSERT_FALSE(allowed.empty());
      ASSERT_LT(allowed.size(), 40u) << written;
      const std::string& next = allowed[static_cast<size_t>(walk * 7 + step * 3) % allowed.size()];
      written += next;
      const std::vector<int32_t> ids = *tokenizer.Encode(next, false);
      for (const int32_t id : ids) constraint->Accept(id);
    }
    std::string name = written.substr(0, written.find('\n'));
    if (name.starts_with(' ')) name.erase(0, 1);
    EXPECT_TRUE(name == "now" || name == "not_now" || name == "get") << written;
    // Then all is free.
    EXPECT_EQ(Allowed(*constraint, tokenizer).size(), static_cast<size_t>(tokenizer.vocab_size()));
  }
}

TEST(ToolNameConstraint, AVocabularyThatCannotWriteIsLeftAlone) {
  const Tokenizer& tokenizer = GlmTokenizer();
  const auto constraint = MakeToolNameConstraint(tokenizer, {}, kLine);
  EXPECT_EQ(Allowed(*constraint, tokenizer).size(), static_cast<size_t>(tokenizer.vocab_size()));
}

}  // namespace
}  // namespace qianyi
