#include "runtime/chat/chat_parser.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "runtime/chat/chat_format.h"
#include "runtime/chat/chat_json.h"
#include "tests/runtime/chat/chat_testing.h"

namespace qianyi {
namespace {

using Kind = ChatDelta::Kind;

// "content|[reasoning]|name(arguments)": neighbours of one kind joined.
std::string Shown(const std::vector<ChatDelta>& deltas) {
  std::string shown;
  for (size_t i = 0; i < deltas.size(); ++i) {
    const ChatDelta& delta = deltas[i];
    const bool joins = i > 0 && delta.kind == deltas[i - 1].kind && delta.kind != Kind::kToolCall;
    if (joins && delta.kind == Kind::kReasoning) shown.pop_back();
    if (!joins && i > 0) shown += '|';
    if (!joins && delta.kind == Kind::kReasoning) shown += '[';
    if (delta.kind == Kind::kToolCall) shown += delta.name + "(";
    shown += delta.text;
    if (delta.kind == Kind::kReasoning) shown += ']';
    if (delta.kind == Kind::kToolCall) shown += ')';
  }
  return shown;
}

std::string Parse(const char* format, const ChatOptions& options,
                  const std::vector<std::string_view>& pieces) {
  const auto parser = FindChatFormat(format)->parser(options);
  std::vector<ChatDelta> deltas;
  for (const std::string_view piece : pieces) parser->Push(piece, &deltas);
  parser->Finish(&deltas);
  for (const ChatDelta& delta : deltas) {
    EXPECT_TRUE(delta.kind == Kind::kToolCall || !delta.text.empty());
    if (delta.kind == Kind::kToolCall) {
      EXPECT_TRUE(nlohmann::json::parse(delta.text, nullptr, false).is_object()) << delta.text;
    }
  }
  return Shown(deltas);
}

// Whole, cut at every place, in two at a time, and byte by byte.
void Expect(const char* format, const ChatOptions& options, const std::string& text,
            const std::string& want) {
  const std::string_view whole = text;
  EXPECT_EQ(Parse(format, options, {whole}), want) << format << ": " << text;
  std::vector<std::string_view> bytes;
  for (size_t i = 0; i < whole.size(); ++i) bytes.push_back(whole.substr(i, 1));
  EXPECT_EQ(Parse(format, options, bytes), want) << format << " in bytes: " << text;
  for (size_t cut = 1; cut < whole.size(); ++cut) {
    ASSERT_EQ(Parse(format, options, {whole.substr(0, cut), whole.substr(cut)}), want)
        << format << " cut at " << cut << ": " << text;
    const size_t end = std::min(cut + 7, whole.size());
    ASSERT_EQ(Parse(format, options,
                    {whole.substr(0, cut), whole.substr(cut, end - cut), whole.substr(end)}),
              want)
        << format << " cut at " << cut << ": " << text;
  }
}

TEST(ChatParser, PlainFormatsLeaveTheTextAsItIs) {
  for (const char* format : {"chatglm-6b", "chatglm2"}) {
    Expect(format, {}, " \n你好 <|assistant|> <think>x</think> \n",
           "你好 <|assistant|> <think>x</think> \n");
    Expect(format, {}, "", "");
    Expect(format, {}, " \n", "");
  }
}

TEST(ChatParser, Glm4Content) {
  Expect("glm4", {}, "\n你好\n世界", "你好\n世界");
  Expect("glm4", {}, "get_weather\n{\"city\": 1}", "get_weather\n{\"city\": 1}");
  Expect("glm4", WithTools(), "\n你好 \n", "你好 \n");
  Expect("glm4", WithTools(), "getting there\nsoon", "getting there\nsoon");
  Expect("glm4", WithTools(), "now", "now");
  Expect("glm4", WithTools(), "now is the time\n{}", "now is the time\n{}");
  Expect("glm4", WithTools(), "", "");
  ChatOptions none = WithTools();
  none.choice = ToolChoice::kNone;
  Expect("glm4", none, "now\n{}", "now\n{}");
}

TEST(ChatParser, Glm4Calls) {
  Expect("glm4", WithTools(), "get_weather\n{\"city\": \"北京\", \"days\": 3}",
         "get_weather({\"city\": \"北京\", \"days\": 3})");
  Expect("glm4", WithTools(), " now \n {} \n", "now({})");
  Expect("glm4", WithTools(), "now\n{\"a\": \"}\\\"{\", \"b\": [{}, \"]\"]}",
         "now({\"a\": \"}\\\"{\", \"b\": [{}, \"]\"]})");
  Expect("glm4", WithTools(), "now\n{}<|assistant|>get_weather\n{\"city\":\"a\"}\n",
         "now({})|get_weather({\"city\": \"a\"})");
  Expect("glm4", WithTools(), "\nLet me see. <|assistant|>now\n{}", "Let me see.|now({})");
  Expect("glm4", WithTools(), "now\n{} and more", "now({})|and more");
  Expect("glm4", WithTools(), "\nsee <|assist", "see <|assist");
}

TEST(ChatParser, Glm4MalformedCallsAreContent) {
  for (const char* text :
       {"now\n{\"a\": }", "now\nplease", "now\n{\"a\": 1", "now\n[1]", "now\n{\"a\": \"x", "now\n",
        "other\n{}", "now\n{]", "now\n{\"a\" 1}<|assistant|"}) {
    Expect("glm4", WithTools(), text, text);
  }
  const std::string deep = "now\n" + std::string(200, '{') + std::string(200, '}');
  EXPECT_EQ(Parse("glm4", WithTools(), {deep}), deep);
}

TEST(ChatParser, ChatGlm3Calls) {
  Expect("chatglm3", WithTools(), "\n 你好", "你好");
  Expect("chatglm3", WithTools(), "get_weather\n ```python\ntool_call(city='北京', days=3)\n```",
         "get_weather({\"city\": \"北京\", \"days\": 3})");
  Expect("chatglm3", WithTools(), "now\n```python\ntool_call()\n``` ", "now({})");
  Expect(
      "chatglm3", WithTools(),
      "now\n```python\ntool_call(a=\"it's\", b=[1, -2.5, True], c={'x': None}, d='``` \\n')\n```",
      "now({\"a\": \"it's\", \"b\": [1, -2.5, true], \"c\": {\"x\": null}, \"d\": \"``` \\n\"})");
  for (const char* text :
       {"now\n```python\ntool_call(a=f(x))\n```", "now\n```python\ntool_call(1)\n```",
        "now\n```python\nimport os\n```", "now\n```python\ntool_call(a=1", "now\ntool_call(a=1)",
        "now\n``` python", "now\n```python\ntool_call(a=1); x\n```", "now\n``````",
        "now\n```python\ntool_call(a=[[1)\n```"}) {
    Expect("chatglm3", WithTools(), text, text);
  }
}

TEST(ChatParser, Glm45Reasoning) {
  Expect("glm4.5", {}, "\n<think>\nLet me see.\n\nYes. \n</think>\n你好\n",
         "[Let me see.\n\nYes.]|你好\n");
  Expect("glm4.5", {}, "\n<think></think>\n你好", "你好");
  Expect("glm4.5", {}, "\n你好 <think>x</think>", "你好 <think>x</think>");
  Expect("glm4.5", {}, "<think>never ends \n", "[never ends]");
  Expect("glm4.5", {}, "<thin", "<thin");
  Expect("glm4.5", {}, "<think>a </thinking> b</think>c", "[a </thinking> b]|c");
  Expect("glm4.5", {}, "<tool_call>now\n</tool_call>", "<tool_call>now\n</tool_call>");
}

TEST(ChatParser, Glm47BeginsInReasoning) {
  Expect("glm4.7", {}, "Let me see.</think>你好", "[Let me see.]|你好");
  Expect("glm4.7", {}, "</think>你好", "你好");
  ChatOptions off;
  off.thinking = false;
  Expect("glm4.7", off, "你好</think>", "你好</think>");
}

TEST(ChatParser, Glm45Calls) {
  const std::string call =
      "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>123</arg_value>\n"
      "<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n</tool_call>";
  const std::string want = "get_weather({\"city\": \"123\", \"days\": 3})";
  Expect("glm4.5", WithTools(), "\n<think>So.</think>\nI look.\n" + call, "[So.]|I look.|" + want);
  Expect("glm4.5", WithTools(), call + "\n" + call + "\n", want + "|" + want);
  Expect("glm4.5", WithTools(), call + "\n done", want + "|done");
  Expect("glm4.5", WithTools(), "<tool_call>now\n</tool_call>", "now({})");
  // Without a type in the schema what is JSON is JSON, and the rest is text.
  Expect("glm4.5", WithTools(),
         "<tool_call>now<arg_key>a</arg_key><arg_value>[1, {\"b\": null}]</arg_value>"
         "<arg_key> b </arg_key><arg_value> not json \"\n</arg_value></tool_call>",
         "now({\"a\": [1, {\"b\": null}], \"b\": \" not json \\\"\\n\"})");
  ChatOptions off = WithTools();
  off.thinking = false;
  Expect("glm4.7", off, "<tool_call>now</tool_call><tool_call>now</tool_call>", "now({})|now({})");
  Expect("glm4.7", WithTools(), "Hm.</think>" + call, "[Hm.]|" + want);
}

TEST(ChatParser, Glm45MalformedCallsAreContent) {
  for (const char* text :
       {"<tool_call>other\n</tool_call>", "<tool_call>now\nplease</tool_call>",
        "<tool_call>now\n<arg_key>a</arg_key></tool_call>",
        "<tool_call>now<arg_key>a</arg_key><arg_value>1</tool_call>", "<tool_call>now",
        "<tool_call></tool_call>", "a < b \n <tool", "x <tool_call>now<arg_key>a</tool_call> y",
        "<tool_call>now<arg_key>a</arg_key>x<arg_value>1</arg_value></tool_call>"}) {
    Expect("glm4.5", WithTools(), text, text);
  }
  Expect("glm4.5", WithTools(), "<tool_call>?</tool_call><tool_call>now</tool_call>",
         "<tool_call>?</tool_call>|now({})");
}

// What a demanded call began with is read like the rest.
TEST(ChatParser, ADemandedCallIsReadFromItsBeginning) {
  ChatOptions options = WithTools();
  options.choice = ToolChoice::kRequired;
  options.chosen_tool = "now";
  for (const auto& [format, rest] : {std::pair{"chatglm3", " ```python\ntool_call()\n```"},
                                     {"glm4", "{}"},
                                     {"glm4.5", "</tool_call>"},
                                     {"glm4.7", "</tool_call>"}}) {
    Expect(format, options, FindChatFormat(format)->begin_call(options) + rest, "now({})");
  }
}

// Work is linear: these take moments, and would take minutes were it quadratic.
TEST(ChatParser, LongAnswersTakeLinearWork) {
  std::string calls, broken, argument = "now\n{\"a\": \"", fence = "now\n```python\n";
  for (int i = 0; i < 40000; ++i) {
    calls += "<tool_call>now</tool_call>\n";
    broken += "<tool_call>";
    argument += "{]`x";
    fence += "`\n``x";
  }
  for (const auto& [format, text] :
       {std::pair<const char*, std::string>{"glm4.5", calls},
        {"glm4.5", broken + "</tool_call>"},
        {"glm4.5", std::string(400000, ' ') + "x" + std::string(400000, '\n')},
        {"glm4", argument},
        {"chatglm3", fence},
        {"glm4", "\n" + std::string(400000, '<')}}) {
    std::vector<std::string_view> pieces;
    for (size_t at = 0; at < text.size(); at += 3) {
      pieces.push_back(std::string_view(text).substr(at, 3));
    }
    EXPECT_FALSE(Parse(format, WithTools(), pieces).empty());
  }
}

TEST(ChatJson, PythonCallsAreReadAndNothingElse) {
  const auto read = [](const char* text) {
    const auto arguments = ParsePythonCall(text, "f");
    return arguments.has_value() ? arguments->dump() : "none";
  };
  EXPECT_EQ(read(" f ( a = 1 , b = 'x' , ) "), R"({"a":1,"b":"x"})");
  EXPECT_EQ(read(R"(f(s="a\n\"\u4e2d\x41\q"))"), R"({"s":"a\n\"中A\\q"})");
  EXPECT_EQ(read("f(名=[], d={}, l=[1,], n=-1e3)"), R"({"名":[],"d":{},"l":[1],"n":-1000.0})");
  for (const char* text : {"",
                           "f",
                           "f(",
                           "f(a)",
                           "f(a=)",
                           "f(a=1",
                           "f(a=1, a=2)",
                           "f(a=1)x",
                           "g()",
                           "f(a=b)",
                           "f(a=1 2)",
                           "f(a='x)",
                           "f(a='x\n')",
                           "f(a='\\u00g0')",
                           "f(a='\\ud800')",
                           "f(a=[1)",
                           "f(a={1:2})",
                           "f(a=--1)",
                           "f(a=1.2.3)",
                           "f(**x)",
                           "f(a=1,,b=2)",
                           "f(,)"}) {
    EXPECT_EQ(read(text), "none") << text;
  }
  EXPECT_EQ(read(("f(a=" + std::string(100, '[') + std::string(100, ']') + ")").c_str()), "none");
}

}  // namespace
}  // namespace qianyi
