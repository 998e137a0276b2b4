#include "runtime/chat/chat_format.h"

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

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
  const auto text = [&](const char* field) {
    const auto at = config.find(field);
    return at != config.end() && at->is_string() ? at->get<std::string>() : std::string();
  };
  const auto number = [&](const char* field) -> int64_t {
    const auto at = config.find(field);
    return at != config.end() && at->is_number_integer() ? at->get<int64_t>() : 0;
  };
  const std::string type = text("model_type");
  const std::string path = text("_name_or_path");
  if (type == "chatglm" && !config.contains("ffn_hidden_size")) return FindChatFormat("chatglm-6b");
  if (type == "chatglm") {
    if (number("padded_vocab_size") >= 100000) return FindChatFormat("glm4");
    // The 32k models of both versions have one config; ChatGLM3-6B's own context is shorter.
    const bool third = path.find("chatglm3") != std::string::npos || number("seq_length") == 8192;
    return FindChatFormat(third ? "chatglm3" : "chatglm2");
  }
  if (type == "glm" && config.contains("num_hidden_layers")) return FindChatFormat("glm4");
  if (type == "glm4") return FindChatFormat("glm4-0414");
  if (type == "glm4_moe_lite") return FindChatFormat("glm4.7");
  if (type != "glm4_moe") return nullptr;
  return FindChatFormat(path.find("4.7") != std::string::npos ? "glm4.7" : "glm4.5");
}

}  // namespace qianyi
