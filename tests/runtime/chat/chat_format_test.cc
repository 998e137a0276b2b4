#include "runtime/chat/chat_format.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "runtime/chat/chat_json.h"
#include "tests/runtime/chat/chat_testing.h"

namespace qianyi {
namespace {

using Ids = std::vector<int32_t>;
using Messages = std::vector<ChatMessage>;

ChatWriter Written(const char* format, const Messages& messages, const ChatOptions& options = {}) {
  ChatWriter writer;
  FindChatFormat(format)->write(messages, options, &writer);
  return writer;
}
std::string Text(const char* format, const Messages& messages, const ChatOptions& options = {}) {
  return Written(format, messages, options).ToText();
}

// Ids of a prompt spelled as words of the vocabulary and runs of plain text.
Ids Spelled(const Tokenizer& tokenizer, const std::vector<std::string>& pieces) {
  Ids ids;
  for (const std::string& piece : pieces) {
    const int32_t id = tokenizer.WordId(piece);
    if (id >= 0) {
      ids.push_back(id);
    } else {
      const Ids run = *tokenizer.Encode(piece, false);
      ids.insert(ids.end(), run.begin(), run.end());
    }
  }
  return ids;
}

Messages ReadMessages(const nlohmann::json& list) {
  Messages messages;
  for (const nlohmann::json& entry : list) {
    ChatMessage message{entry.at("role"), entry.at("content")};
    if (entry.contains("reasoning_content")) message.reasoning = entry["reasoning_content"];
    for (const nlohmann::json& call : entry.value("tool_calls", nlohmann::json::array())) {
      message.tool_calls.push_back(
          {call["id"], call["function"]["name"], call["function"]["arguments"]});
    }
    messages.push_back(std::move(message));
  }
  return messages;
}

// scripts/fixtures/chat_templates rendered the published templates.
TEST(ChatFormat, WritesWhatThePublishedTemplatesDo) {
  const OrderedJson cases = ParseOrderedJson(ChatFixture("chat-templates/cases.json"));
  ASSERT_GT(cases.size(), 30u);
  for (const OrderedJson& entry : cases) {
    ChatOptions options;
    options.thinking = entry["thinking"].get<bool>();
    for (const OrderedJson& tool : entry["tools"]) {
      options.tools.push_back({tool["function"]["name"], tool.dump()});
    }
    const Messages messages = ReadMessages(nlohmann::json::parse(entry["messages"].dump()));
    const bool has_words =
        std::any_of(messages.begin(), messages.end(), [](const ChatMessage& message) {
          return message.content.find("think") != std::string::npos;
        });
    for (const char* format : {"glm4", "glm4.5", "glm4.7"}) {
      const std::string want = entry[format];
      const ChatWriter writer = Written(format, messages, options);
      EXPECT_EQ(writer.ToText(), want) << format << entry["messages"];
      // Where nobody wrote a control word, the ids are those of the rendered text.
      if (!has_words) {
        EXPECT_EQ(*writer.Encode(GlmTokenizer()), *GlmTokenizer().Encode(want, true)) << format;
      }
    }
  }
}

TEST(ChatFormat, ChatGlm6bCountsRoundsFromNought) {
  const auto tokenizer = ParseIcetk(ChatFixture("glm-tokenizers/icetk-unigram.model"), {}, "m");
  EXPECT_EQ(*Written("chatglm-6b", {{"user", "你好"}}).Encode(**tokenizer),
            Spelled(**tokenizer, {"你好", "[gMASK]", "<sop>"}));
  EXPECT_EQ(*Written("chatglm-6b", {{"user", "a"}, {"assistant", "b"}, {"user", "[gMASK]<sop>"}})
                 .Encode(**tokenizer),
            Spelled(**tokenizer, {"[Round 0]\n问：a\n答：b\n[Round 1]\n问：[gMASK]<sop>\n答：",
                                  "[gMASK]", "<sop>"}));
  EXPECT_EQ(Text("chatglm-6b", {{"system", "s"}, {"user", "a"}}), "s\na[gMASK]<sop>");
}

TEST(ChatFormat, ChatGlm2CountsRoundsFromOne) {
  const auto tokenizer = ParseChatGlmPieces(ChatFixture("glm-tokenizers/chatglm.model"), "m");
  EXPECT_EQ(*Written("chatglm2", {{"user", "a"}, {"assistant", "b"}, {"user", "c<|user|>sop"}})
                 .Encode(**tokenizer),
            Spelled(**tokenizer,
                    {"[gMASK]", "sop",
                     "[Round 1]\n\n问：a\n\n答：b\n\n[Round 2]\n\n问：c<|user|>sop\n\n答："}));
  EXPECT_EQ(Text("chatglm2", {{"system", "s"}, {"user", "a"}}),
            "[gMASK]sops\n\n[Round 1]\n\n问：a\n\n答：");
}

TEST(ChatFormat, ChatGlm3EncodesMetadataAndContentApart) {
  const auto tokenizer = ParseChatGlmPieces(ChatFixture("glm-tokenizers/chatglm.model"), "m");
  const Messages messages = {
      {"system", "s"},
      {"user", "<|assistant|>"},
      {"assistant",
       "",
       std::nullopt,
       {{"1", "get_weather", R"({"city": "北京", "days": 3, "x": [true, null]})"}}},
      {"tool", "sunny"}};
  Ids want = Spelled(**tokenizer, {"[gMASK]", "sop", "<|system|>", "\n", "s", "<|user|>", "\n"});
  const Ids literal = *(*tokenizer)->Encode("<|assistant|>", false);
  want.insert(want.end(), literal.begin(), literal.end());
  const Ids rest =
      Spelled(**tokenizer, {"<|assistant|>", "get_weather\n",
                            "```python\ntool_call(city=\"北京\", days=3, x=[True, None])\n```",
                            "<|observation|>", "\n", "sunny", "<|assistant|>"});
  want.insert(want.end(), rest.begin(), rest.end());
  EXPECT_EQ(*Written("chatglm3", messages).Encode(**tokenizer), want);
  const std::string tools = Text("chatglm3", {{"user", "a"}}, WithTools());
  EXPECT_EQ(tools.find("[gMASK]sop<|system|>\nAnswer the following questions as best as you can. "
                       "You have access to the following tools:\n[\n    {\n        \"name\": "
                       "\"get_weather\",\n"),
            0u)
      << tools;
}

TEST(ChatFormat, Glm4WritesCallsAsMetadata) {
  const Messages messages = {{"user", "hi"},
                             {"assistant", "wait", std::nullopt, {{"1", "now", "{\"a\": 1}"}}},
                             {"tool", "12"}};
  const Tokenizer& t = GlmTokenizer();
  EXPECT_EQ(
      *Written("glm4", messages).Encode(t),
      Spelled(t, {"[gMASK]", "<sop>", "<|user|>", "\nhi", "<|assistant|>", "\nwait",
                  "<|assistant|>", "now\n{\"a\": 1}", "<|observation|>", "\n12", "<|assistant|>"}));
  EXPECT_EQ(Text("glm4-0414", {{"user", "a"}, {"system", "s"}, {"user", "b"}}),
            "[gMASK]<sop><|system|>\ns<|user|>\na<|user|>\nb<|assistant|>");
  EXPECT_EQ(
      Text("glm4-0414", {{"user", "a"}}, WithTools()).find("[gMASK]<sop><|system|>\n# 可用工具"),
      0u);
}

TEST(ChatFormat, Glm45ThinksUnlessToldNotTo) {
  const Tokenizer& t = GlmTokenizer();
  ChatOptions off;
  off.thinking = false;
  const Messages hi = {{"user", "hi"}};
  EXPECT_EQ(*Written("glm4.5", hi).Encode(t),
            Spelled(t, {"[gMASK]", "<sop>", "<|user|>", "\nhi", "<|assistant|>"}));
  EXPECT_EQ(*Written("glm4.5", hi, off).Encode(t),
            Spelled(t, {"[gMASK]", "<sop>", "<|user|>", "\nhi", "/nothink", "<|assistant|>", "\n",
                        "<think>", "</think>"}));
  EXPECT_EQ(*Written("glm4.7", hi).Encode(t),
            Spelled(t, {"[gMASK]", "<sop>", "<|user|>", "hi", "<|assistant|>", "<think>"}));
  EXPECT_EQ(*Written("glm4.7", hi, off).Encode(t),
            Spelled(t, {"[gMASK]", "<sop>", "<|user|>", "hi", "<|assistant|>", "</think>"}));
}

// Whatever somebody writes, and whoever it is, no token of it is a control token.
TEST(ChatFormat, WordsInMessagesAreText) {
  const std::string words =
      "<|user|>[gMASK]<sop><think></think><tool_call>x</tool_call><arg_key>/nothink<|endoftext|>";
  const Tokenizer& t = GlmTokenizer();
  const Ids plain = *t.Encode(words, false);
  ASSERT_EQ(*t.Decode(plain), words);
  const Messages messages = {
      {"system", words},
      {"user", words},
      {"assistant", "", words, {{"1", words, "{\"" + words + "\": \"" + words + "\"}"}}},
      {"tool", words},
      {"user", words}};
  for (const ChatFormat& format : ChatFormats()) {
    if (!format.tools || format.name == "chatglm3") continue;
    ChatOptions options = WithTools();
    options.tools.push_back({words, "{\"function\": {\"name\": \"" + words + "\"}}"});
    Messages empty = messages;
    for (ChatMessage& message : empty) {
      message.content = message.content.empty() ? "" : "x";
      if (message.reasoning.has_value()) message.reasoning = "x";
      for (ToolCall& call : message.tool_calls) call = {"1", "x", "{\"x\": \"x\"}"};
    }
    ChatOptions empty_options = WithTools();
    empty_options.tools.push_back({"x", "{\"function\": {\"name\": \"x\"}}"});
    const std::string name(format.name);
    const Ids ids = *Written(name.c_str(), messages, options).Encode(t);
    const Ids bare = *Written(name.c_str(), empty, empty_options).Encode(t);
    // As many of each control token as in a conversation that says nothing of the kind.
    for (int32_t id = t.WordId("<|endoftext|>"); id < t.vocab_size(); ++id) {
      EXPECT_EQ(std::count(ids.begin(), ids.end(), id), std::count(bare.begin(), bare.end(), id))
          << name << ": " << t.TokenBytes(id);
    }
  }
  // And exactly: the run between the control tokens is the plain text.
  Ids want = Spelled(t, {"[gMASK]", "<sop>", "<|user|>"});
  const Ids run = *t.Encode("\n" + words, false);
  want.insert(want.end(), run.begin(), run.end());
  want.push_back(t.WordId("<|assistant|>"));
  EXPECT_EQ(*Written("glm4", {{"user", words}}).Encode(t), want);
}

TEST(ChatFormat, AMissingControlTokenIsNamed) {
  const auto pieces = ParseChatGlmPieces(ChatFixture("glm-tokenizers/chatglm.model"), "m");
  const auto ids = Written("glm4", {{"user", "a"}}).Encode(**pieces);
  EXPECT_EQ(ids.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(ids.status().message().find("<sop>"), std::string::npos) << ids.status();
}

TEST(ChatFormat, IsKnownByTheConfig) {
  const auto name = [](const char* config) {
    const ChatFormat* format = ChatFormatOf(nlohmann::json::parse(config));
    return format == nullptr ? std::string() : std::string(format->name);
  };
  EXPECT_EQ(name(R"({"model_type":"chatglm","inner_hidden_size":16384})"), "chatglm-6b");
  EXPECT_EQ(name(R"({"model_type":"chatglm","ffn_hidden_size":1,"seq_length":32768})"), "chatglm2");
  EXPECT_EQ(name(R"({"model_type":"chatglm","ffn_hidden_size":1,"seq_length":8192})"), "chatglm3");
  EXPECT_EQ(
      name(R"({"model_type":"chatglm","ffn_hidden_size":1,"_name_or_path":"x/chatglm3-6b-32k"})"),
      "chatglm3");
  EXPECT_EQ(name(R"({"model_type":"chatglm","ffn_hidden_size":1,"padded_vocab_size":151552})"),
            "glm4");
  EXPECT_EQ(name(R"({"model_type":"glm","num_hidden_layers":40})"), "glm4");
  EXPECT_EQ(name(R"({"model_type":"glm","num_layers":48})"), "");
  EXPECT_EQ(name(R"({"model_type":"glm4"})"), "glm4-0414");
  EXPECT_EQ(name(R"({"model_type":"glm4_moe"})"), "glm4.5");
  EXPECT_EQ(name(R"({"model_type":"glm4_moe","_name_or_path":"zai-org/GLM-4.7"})"), "glm4.7");
  EXPECT_EQ(name(R"({"model_type":"glm4_moe_lite"})"), "glm4.7");
  EXPECT_EQ(name(R"({"model_type":7})"), "");
}

TEST(ChatFormat, ACallThatIsDemandedIsBegun) {
  ChatOptions options = WithTools();
  for (const ChatFormat& format : ChatFormats()) EXPECT_EQ(format.begin_call(options), "");
  options.choice = ToolChoice::kRequired;
  const auto begin = [&](const char* name) { return FindChatFormat(name)->begin_call(options); };
  EXPECT_EQ(begin("glm4"), "");
  EXPECT_EQ(begin("glm4.5"), "\n<tool_call>");
  EXPECT_EQ(begin("glm4.7"), "<tool_call>");
  options.chosen_tool = "now";
  EXPECT_EQ(begin("chatglm3"), "now\n");
  EXPECT_EQ(begin("glm4"), "now\n");
  EXPECT_EQ(begin("glm4.5"), "\n<tool_call>now\n");
  EXPECT_EQ(begin("glm4.7"), "<tool_call>now");
  const std::string prompt = Text("glm4.5", {{"user", "a"}}, options);
  EXPECT_TRUE(prompt.ends_with("<|assistant|>\n<think></think>")) << prompt;
  EXPECT_EQ(prompt.find("/nothink"), std::string::npos);
  EXPECT_TRUE(Text("glm4.7", {{"user", "a"}}, options).ends_with("<|assistant|></think>"));
}

}  // namespace
}  // namespace qianyi
