// The chat formats of the GLM family: how a conversation is written for a model, and how its
// answer is read.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json_fwd.hpp"
#include "runtime/chat/chat_message.h"
#include "runtime/chat/chat_parser.h"
#include "runtime/chat/chat_writer.h"

namespace qianyi {

// One format; a constant. Sources beside each one's Write.
struct ChatFormat {
  using Messages = std::span<const ChatMessage>;

  std::string_view name;  // "glm4": what config.json calls it, "chat": {"format": "glm4"}
  bool tools = false;     // whether it has tools
  bool thinking = false;  // whether its models think first, and can be told not to
  // Messages have been checked: roles are known, arguments are JSON objects.
  void (*write)(Messages messages, const ChatOptions& options, ChatWriter* out);
  // With a tool asked for by the request, the beginning of the answer is not the model's choice:
  // this is written behind the prompt, and the parser reads it first.
  std::string (*begin_call)(const ChatOptions& options);
  std::unique_ptr<ChatParser> (*parser)(const ChatOptions& options);
  // What may follow the name of a tool, when the model has to choose one.
  std::vector<std::string_view> after_tool_name;
  // Besides the model's own end tokens: words at which an answer ends.
  std::vector<std::string_view> end_words;
};

// In the order of the models; the names are what config.json may say.
const std::vector<ChatFormat>& ChatFormats();
// Null when there is none.
const ChatFormat* FindChatFormat(std::string_view name);
// By model_type and what tells its versions apart; null for models that are asked by templates.
const ChatFormat* ChatFormatOf(const nlohmann::json& config);

// Written by one file each.
void WriteChatGlm6b(ChatFormat::Messages, const ChatOptions&, ChatWriter*);
void WriteChatGlm2(ChatFormat::Messages, const ChatOptions&, ChatWriter*);
void WriteChatGlm3(ChatFormat::Messages, const ChatOptions&, ChatWriter*);
void WriteGlm4(ChatFormat::Messages, const ChatOptions&, ChatWriter*);
void WriteGlm4Of0414(ChatFormat::Messages, const ChatOptions&, ChatWriter*);
void WriteGlm45(ChatFormat::Messages, const ChatOptions&, ChatWriter*);
void WriteGlm47(ChatFormat::Messages, const ChatOptions&, ChatWriter*);

// Content alone, without white space at its beginning.
std::unique_ptr<ChatParser> MakePlainParser(const ChatOptions&);
// "name\n{…}" as the first line of a message, and Python in a fence.
std::unique_ptr<ChatParser> MakeGlm4Parser(const ChatOptions&);
std::unique_ptr<ChatParser> MakeChatGlm3Parser(const ChatOptions&);
// <think>…</think> and <tool_call>…</tool_call>; GLM-4.7's prompt has opened <think>.
std::unique_ptr<ChatParser> MakeGlm45Parser(const ChatOptions&);
std::unique_ptr<ChatParser> MakeGlm47Parser(const ChatOptions&);

}  // namespace qianyi
