// ChatGLM3-6B: zai-org/ChatGLM3, PROMPT.md and the tokenizer's build_single_message. A message is
// its role's token, then "METADATA\n" and the content, each encoded apart. Metadata is the name of
// the tool in a call, whose content is Python in a fence.
#include <string>

#include "absl/strings/str_cat.h"
#include "runtime/chat/chat_format.h"
#include "runtime/chat/chat_json.h"

namespace qianyi {
namespace {

void Begin(const char* role, const std::string& metadata, ChatWriter* out) {
  out->Control(role);
  out->Text(metadata);
  out->Literal("\n");
  out->Break();
}

void WriteChatGlm3Tools(const ChatOptions& options, ChatWriter* out) {
  OrderedJson functions = OrderedJson::array();
  for (const ChatTool& tool : options.tools) {
    functions.push_back(Member(ParseOrderedJson(tool.json), "function"));
  }
  Begin("<|system|>", "", out);
  out->Literal(
      "Answer the following questions as best as you can. You have access to the following "
      "tools:\n");
  out->Text(functions.dump(4, ' ', false, OrderedJson::error_handler_t::replace));
}

void WriteCall(const ToolCall& call, ChatWriter* out) {
  Begin("<|assistant|>", call.name, out);
  std::string arguments;
  const OrderedJson object = ParseOrderedJson(call.arguments);
  for (auto at = object.begin(); at != object.end(); ++at) {
    absl::StrAppend(&arguments, arguments.empty() ? "" : ", ", at.key(), "=",
                    PythonLiteral(at.value()));
  }
  out->Literal("```python\ntool_call(");
  out->Text(arguments);
  out->Literal(")\n```");
}

}  // namespace

void WriteChatGlm3(ChatFormat::Messages messages, const ChatOptions& options, ChatWriter* out) {
  out->Control("[gMASK]");
  out->Control("sop");
  if (options.calls_tools()) WriteChatGlm3Tools(options, out);
  for (const ChatMessage& message : messages) {
    const bool calls = !message.tool_calls.empty();
    if (!calls || !message.content.empty()) {
      Begin(message.role == "system"      ? "<|system|>"
            : message.role == "user"      ? "<|user|>"
            : message.role == "assistant" ? "<|assistant|>"
                                          : "<|observation|>",
            "", out);
      out->Text(message.content);
    }
    for (const ToolCall& call : message.tool_calls) WriteCall(call, out);
  }
  out->Control("<|assistant|>");
}

}  // namespace qianyi
