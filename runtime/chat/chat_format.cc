#include "runtime/chat/chat_format.h"

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "runtime/models/registry.h"

namespace qianyi {
namespace {

std::string NoCall(const ChatOptions&) { return ""; }

// The only tool that may be called, or none.
std::string OnlyTool(const ChatOptions& options) {
  if (options.choice != ToolChoice::kRequired) return "";
  if (!options.chosen_tool.empty()) return options.chosen_tool;
  return options.tools.size() == 1 ? options.tools[0].name : "";
}

std::string BeginLineCall(const ChatOptions& options) {
  const std::string name = OnlyTool(options);
  return name.empty() ? "" : absl::StrCat(name, "\n");
}
std::string BeginGlm45Call(const ChatOptions& options) {
  if (options.choice != ToolChoice::kRequired) return "";
  const std::string name = OnlyTool(options);
  return absl::StrCat("\n<tool_call>", name, name.empty() ? "" : "\n");
}
std::string BeginGlm47Call(const ChatOptions& options) {
  if (options.choice != ToolChoice::kRequired) return "";
  return absl::StrCat("<tool_call>", OnlyTool(options));
}

}  // namespace

const std::vector<ChatFormat>& ChatFormats() {
  static const auto* formats = new std::vector<ChatFormat>{
      {"chatglm-6b", false, false, WriteChatGlm6b, NoCall, MakePlainParser, {}, {"<eop>"}},
      {"chatglm2", false, false, WriteChatGlm2, NoCall, MakePlainParser, {}, {"</s>"}},
      {"chatglm3",
       true,
       false,
       WriteChatGlm3,
       BeginLineCall,
       MakeChatGlm3Parser,
       {"\n"},
       {"</s>", "<|user|>", "<|observation|>"}},
      {"glm4",
       true,
       false,
       WriteGlm4,
       BeginLineCall,
       MakeGlm4Parser,
       {"\n"},
       {"<|endoftext|>", "<|user|>", "<|observation|>"}},
      {"glm4-0414",
       true,
       false,
       WriteGlm4Of0414,
       BeginLineCall,
       MakeGlm4Parser,
       {"\n"},
       {"<|endoftext|>", "<|user|>", "<|observation|>"}},
      {"glm4.5",
       true,
       true,
       WriteGlm45,
       BeginGlm45Call,
       MakeGlm45Parser,
       {"\n"},
       {"<|endoftext|>", "<|user|>", "<|observation|>"}},
      {"glm4.7",
       true,
       true,
       WriteGlm47,
       BeginGlm47Call,
       MakeGlm47Parser,
       {"<arg_key>", "</tool_call>"},
       {"<|endoftext|>", "<|user|>", "<|observation|>"}},
  };
  return *formats;
}

const ChatFormat* FindChatFormat(std::string_view name) {
  for (const ChatFormat& format : ChatFormats()) {
    if (format.name == name) return &format;
  }
  return nullptr;
}

const ChatFormat* ChatFormatOf(const nlohmann::json& config) {
  const absl::StatusOr<const ModelFamily*> family = FindFamily(config);
  if (!family.ok() || (*family)->chat_format == nullptr) return nullptr;
  return FindChatFormat((*family)->chat_format(config));
}

}  // namespace qianyi
