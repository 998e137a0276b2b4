// A conversation as a request states it, before any model's format.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace qianyi {

// What a model asked for, or is told that it asked for.
struct ToolCall {
  std::string id;  // the client's, or ours for it; no format shows it to the model
  std::string name;
  std::string arguments;  // a JSON object as text
};

struct ChatMessage {
  std::string role;  // "system", "user", "assistant" or "tool"
  std::string content;
  std::optional<std::string> reasoning = std::nullopt;  // of an assistant's message
  std::vector<ToolCall> tool_calls = {};                // of an assistant's message
};

// A function that the model may call.
struct ChatTool {
  std::string name;
  std::string json;  // {"type": "function", "function": {…}}, members in the client's order
};

enum class ToolChoice : uint8_t { kAuto, kNone, kRequired };

struct ChatOptions {
  std::vector<ChatTool> tools;
  ToolChoice choice = ToolChoice::kAuto;
  std::string chosen_tool;     // with kRequired: this one and no other, when not empty
  bool parallel_calls = true;  // otherwise the answer ends with its first call
  bool thinking = true;        // of formats that have it

  bool calls_tools() const { return !tools.empty() && choice != ToolChoice::kNone; }
};

}  // namespace qianyi
