// Tools and tokenizers for the tests of chat formats.
#pragma once

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "runtime/chat/chat_message.h"
#include "runtime/tokenizers/glm_sentencepiece.h"
#include "runtime/tokenizers/tokenizer.h"
#include "runtime/tokenizers/tokenizer_json.h"
#include "tests/support/paths.h"

namespace qianyi {

inline std::string ChatFixture(const std::string& path) {
  std::ifstream file(qianyi::testing::FixturePath(path), std::ios::binary);
  EXPECT_TRUE(file.good()) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

// A tiny vocabulary with all special tokens of GLM-4 to GLM-4.7.
inline const Tokenizer& GlmTokenizer() {
  static const std::unique_ptr<Tokenizer> tokenizer =
      *ParseTokenizerJson(ChatFixture("glm-tokenizers/tokenizer.json"), "tokenizer.json");
  return *tokenizer;
}

inline ChatTool Weather() {
  return {"get_weather",
          R"({"type":"function","function":{"name":"get_weather","parameters":{"type":"object",)"
          R"("properties":{"city":{"type":"string"},"days":{"type":"integer"}}}}})"};
}
inline ChatTool Now() { return {"now", R"({"type":"function","function":{"name":"now"}})"}; }

inline ChatOptions WithTools() {
  ChatOptions options;
  options.tools = {Weather(), Now()};
  return options;
}

}  // namespace qianyi
