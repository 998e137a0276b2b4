#include "runtime/prompts/prompts.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "runtime/models/registry.h"
#include "runtime/prompts/task.h"
#include "runtime/prompts/text_template.h"

namespace qianyi {
namespace {

// Bytes are ids; "[gMASK]" and "[MASK]" are commands.
class ByteTokenizer final : public Tokenizer {
 public:
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text, bool specials) const override {
    std::vector<int32_t> ids;
    while (!text.empty()) {
      if (specials && text.substr(0, 7) == "[gMASK]") {
        ids.push_back(300);
        text.remove_prefix(7);
      } else if (specials && text.substr(0, 6) == "[MASK]") {
        ids.push_back(301);
        text.remove_prefix(6);
      } else {
        ids.push_back(static_cast<uint8_t>(text[0]));
        text.remove_prefix(1);
      }
    }
    return ids;
  }
  absl::StatusOr<std::string> Decode(std::span<const int32_t> ids) const override {
    std::string text;
    for (const int32_t id : ids) {
      text += id == 300   ? "<g>"
              : id == 301 ? "<m>"
              : id == 302 ? "<s>"
                          : std::string(1, static_cast<char>(id));
    }
    return text;
  }
  std::string_view TokenBytes(int32_t) const override { return ""; }
  std::string_view NextBytes(int32_t, bool*) const override { return ""; }
  int32_t vocab_size() const override { return 303; }
  int32_t CommandId(std::string_view role) const override {
    return role == "gMASK" ? 300 : role == "sop" ? 302 : -1;
  }
  int32_t WordId(std::string_view word) const override {
    return word == "[gMASK]" ? 300 : word == "sop" ? 302 : -1;
  }
};

constexpr char kBlanksConfig[] =
    R"({"model_type":"glm","num_layers":1,"hidden_size":64,"num_attention_heads":1,)"
    R"("max_sequence_length":256,"vocab_size":320,"special_token_ids":)"
    R"({"sop":310,"eop":311,"MASK":301,"gMASK":300})";
constexpr char kRounds[] =
    R"({"model_type":"chatglm","num_layers":1,"hidden_size":64,"ffn_hidden_size":64,)"
    R"("num_attention_heads":2,"multi_query_group_num":1,"kv_channels":32,)"
    R"("padded_vocab_size":320,"seq_length":256)";

struct Asked {
  Asked(const std::string& config) {
    auto spec = DescribeModel(config);
    EXPECT_TRUE(spec.ok()) << spec.status();
    auto laid = ModelFile::Lay(*spec, {DType::kF32}, 1);
    EXPECT_TRUE(laid.ok()) << laid.status();
    file = *std::move(laid);
    model = *CreateModel(file);
    prompts = Prompts::Of(file.spec);
  }
  std::string Task_(Task task, const PromptFields& fields) const {
    auto ids = prompts->EncodeTask(task, fields, *model, tokenizer);
    return ids.ok() ? *tokenizer.Decode(*ids) : std::string(ids.status().message());
  }
  std::string Chat(const std::vector<ChatMessage>& messages) const {
    auto ids = prompts->EncodeChat(messages, {}, *model, tokenizer);
    return ids.ok() ? *tokenizer.Decode(*ids) : std::string(ids.status().message());
  }

  ModelFile file;
  std::unique_ptr<Model> model;
  absl::StatusOr<Prompts> prompts = absl::UnknownError("");
  ByteTokenizer tokenizer;
};

TEST(TextTemplateTest, PartsWithoutTheirFieldAreLeftOut) {
  auto text = TextTemplate::Parse({"{form}", "<{title}>", "{author}, {form}", ":[gMASK]"}, "t",
                                  {"form", "title", "author"});
  ASSERT_TRUE(text.ok()) << text.status();
  const PromptFields fields = {{"title", "T"}, {"author", "A"}, {"form", ""}};
  std::vector<PromptPart> parts;
  text->Fill(fields, &parts);
  std::string joined;
  for (const PromptPart& part : parts)
    joined += std::string(part.text) + (part.commands ? "!" : "?");
  EXPECT_EQ(joined, "<!T?>!:[gMASK]!");
}

TEST(TextTemplateTest, MalformedOnesNameThePlace) {
  for (const nlohmann::json& parts :
       {nlohmann::json(5), nlohmann::json::array(), nlohmann::json({1, 2}),
        nlohmann::json("{other}"), nlohmann::json("a{title"), nlohmann::json("{}")}) {
    const auto text = TextTemplate::Parse(parts, "tasks.poem", {"title"});
    EXPECT_EQ(text.status().code(), absl::StatusCode::kInvalidArgument) << parts;
    EXPECT_NE(text.status().message().find("tasks.poem"), std::string::npos) << text.status();
  }
}

TEST(PromptsTest, TasksOfTheConfig) {
  const Asked asked(std::string(kBlanksConfig) +
                    R"(,"tasks":{"poem":{"prompt":["{form}","<{title}>",":[gMASK]"],)"
                    R"("defaults":{"temperature":0.5}}}})");
  ASSERT_TRUE(asked.prompts.ok()) << asked.prompts.status();
  EXPECT_EQ(asked.Task_(Task::kPoem, {{"title", "T"}, {"form", "F"}}), "F<T>:<g>");
  EXPECT_EQ(asked.Task_(Task::kPoem, {}), ":<g>");
  EXPECT_EQ(asked.prompts->TaskDefaults(Task::kPoem), (Prompts::Defaults{{"temperature", 0.5}}));
  EXPECT_TRUE(asked.prompts->TaskDefaults(Task::kCouplet).empty());
}

TEST(PromptsTest, WhatUsersWriteIsNeverACommand) {
  const Asked asked(std::string(kBlanksConfig) + "}");
  EXPECT_EQ(asked.Task_(Task::kCouplet, {{"upper", "a[MASK]b"}}), "上联:a[MASK]b 下联:<g>");
  EXPECT_EQ(asked.Chat({{"user", "[gMASK]"}}), "问题:[gMASK] 回答:<g>");
  // Nor is a command put together from what a template and a user wrote.
  const Asked joined(std::string(kBlanksConfig) +
                     R"(,"chat":{"user":"[MA{content}","start":"[gMASK]"}})");
  EXPECT_EQ(joined.Chat({{"user", "SK]"}}), "[MASK]<g>");
}

TEST(PromptsTest, MissingFieldsAreNamed) {
  const Asked asked(std::string(kBlanksConfig) + "}");
  EXPECT_NE(asked.Task_(Task::kCouplet, {}).find("upper is missing"), std::string::npos);
  EXPECT_NE(asked.Task_(Task::kQuestion, {{"persona", "x"}}).find("question"), std::string::npos);
  EXPECT_NE(
      asked.Task_(Task::kSummary, {{"text", std::string(kMaxFieldBytes + 1, 'a')}}).find("at most"),
      std::string::npos);
}

TEST(PromptsTest, RoundsOfChatGlm2) {
  const Asked asked(std::string(kRounds) + "}");
  ASSERT_TRUE(asked.prompts.ok()) << asked.prompts.status();
  EXPECT_EQ(asked.Chat({{"user", "a"}}), "<g><s>[Round 1]\n\n问：a\n\n答：");
  EXPECT_EQ(asked.Chat({{"user", "a"}, {"assistant", "b"}, {"user", "c"}}),
            "<g><s>[Round 1]\n\n问：a\n\n答：b\n\n[Round 2]\n\n问：c\n\n答：");
  EXPECT_EQ(asked.Task_(Task::kCouplet, {{"upper", "u"}}),
            "<g><s>[Round 1]\n\n问：请对下联，只写下联。上联：u\n\n答：");
  EXPECT_NE(asked.Chat({{"assistant", "b"}}).find("user"), std::string::npos);
  EXPECT_NE(asked.Chat({{"tool", "b"}, {"user", "a"}}).find("messages[0].role"), std::string::npos);
}

TEST(PromptsTest, TheConfigNamesTheFormat) {
  const Asked named(std::string(kRounds) +
                    R"(,"chat":{"format":"glm4","defaults":{"top_p":0.8}}})");
  ASSERT_TRUE(named.prompts.ok()) << named.prompts.status();
  EXPECT_EQ(named.prompts->chat_format(), FindChatFormat("glm4"));
  EXPECT_EQ(named.prompts->ChatDefaults(), (Prompts::Defaults{{"top_p", 0.8}}));
  const Asked templates(std::string(kRounds) + R"(,"chat":{"user":"<{content}>","start":":"}})");
  EXPECT_EQ(templates.prompts->chat_format(), nullptr);
  EXPECT_EQ(templates.Chat({{"user", "a"}}), "<g><s><a>:");
}

// Plain prompts of the ChatGLM line begin as the original tokenizers have it, once.
TEST(PromptsTest, CompletionsOfChatGlm2BeginWithItsPrefix) {
  const Asked asked(std::string(kRounds) + "}");
  const auto text = [&](std::string_view prompt) {
    const PromptPart part = {prompt, /*commands=*/true};
    return *asked.tokenizer.Decode(*asked.model->Encode(asked.tokenizer, {&part, 1}));
  };
  EXPECT_EQ(text("hi"), "<g><s>hi");
  EXPECT_EQ(text("[gMASK]hi"), "<g>hi");
}

TEST(PromptsTest, FormatsWithoutToolsSaySo) {
  for (const char* config : {kBlanksConfig, kRounds}) {
    const Asked asked(std::string(config) + "}");
    EXPECT_NE(asked.Chat({{"user", "a"}, {"tool", "b"}}).find("has no tools"), std::string::npos);
    ChatMessage call{"assistant", ""};
    call.tool_calls.push_back({"1", "f", "{}"});
    EXPECT_NE(asked.Chat({{"user", "a"}, call, {"user", "b"}}).find("messages[1].tool_calls"),
              std::string::npos);
  }
}

TEST(PromptsTest, MalformedConfigsAreRefused) {
  for (const char* rest :
       {R"(,"tasks":5})", R"(,"tasks":{"poem":5}})", R"(,"tasks":{"poem":{}}})",
        R"(,"tasks":{"poem":{"prompt":["{who}"]}}})",
        R"(,"tasks":{"poem":{"prompt":["x"],"defaults":[]}}})",
        R"(,"tasks":{"poem":{"prompt":["x"],"defaults":{"temperature":"hot"}}}})",
        R"(,"chat":{"user":7}})", R"(,"chat":[]})", R"(,"chat":{"format":"glm9"}})",
        R"(,"chat":{"format":7}})"}) {
    auto spec = DescribeModel(std::string(kBlanksConfig) + rest);
    ASSERT_TRUE(spec.ok()) << spec.status();
    EXPECT_EQ(Prompts::Of(*spec).status().code(), absl::StatusCode::kInvalidArgument) << rest;
  }
}

}  // namespace
}  // namespace qianyi
