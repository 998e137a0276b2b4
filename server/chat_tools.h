// Tools as requests state them: one set of limits for REST and gRPC.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "runtime/chat/chat_json.h"
#include "runtime/chat/chat_message.h"

namespace qianyi {

inline constexpr size_t kMaxTools = 128;
inline constexpr size_t kMaxToolCalls = 128;  // of one message
inline constexpr size_t kMaxToolNameBytes = 64;
inline constexpr size_t kMaxToolBytes = 64 << 10;    // of one tool as JSON
inline constexpr size_t kMaxToolsBytes = 512 << 10;  // of all
inline constexpr int kMaxToolDepth = 32;             // of brackets

// [{"type": "function", "function": {"name", "description", "parameters"}}, …]. InvalidArgument
// names the field, its value and the limit.
absl::Status ReadTools(const OrderedJson& list, std::vector<ChatTool>* tools);
// "auto", "none", "required" or {"type": "function", "function": {"name"}}, after ReadTools.
absl::Status ReadToolChoice(const OrderedJson& choice, ChatOptions* options);
// [{"id", "type": "function", "function": {"name", "arguments"}}, …] of the message `where`.
absl::Status ReadToolCalls(const OrderedJson& list, const std::string& where,
                           std::vector<ToolCall>* calls);

}  // namespace qianyi
