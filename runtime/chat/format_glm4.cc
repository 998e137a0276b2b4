// GLM-4-9B (zai-org/glm-4-9b-chat) and GLM-4-0414: the chat templates published with them. A
// message is <|role|>METADATA\nCONTENT; metadata is the name of the tool in a call.
#include <string>

#include "runtime/chat/chat_format.h"
#include "runtime/chat/chat_json.h"

namespace qianyi {
namespace {

void WriteGlm4Tools(const ChatOptions& options, ChatWriter* out) {
  for (const ChatTool& tool : options.tools) {
    const OrderedJson json = ParseOrderedJson(tool.json);
    const OrderedJson& function = Member(json, "function");
    // The template has two line breaks here; Jinja drops the one behind a block's tag.
    out->Literal("\n## ");
    out->Text(tool.name);
    out->Literal("\n\n");
    out->Text(function.dump(4, ' ', false, OrderedJson::error_handler_t::replace));
    out->Literal("\n在调用上述函数时，请使用 Json 格式表示调用的参数。");
  }
}

void WriteMessage(const ChatMessage& message, ChatWriter* out) {
  if (!message.content.empty()) {
    out->Control(message.role == "system"      ? "<|system|>"
                 : message.role == "user"      ? "<|user|>"
                 : message.role == "assistant" ? "<|assistant|>"
                                               : "<|observation|>");
    out->Literal("\n");
    out->Text(message.content);
  }
  for (const ToolCall& call : message.tool_calls) {
    out->Control("<|assistant|>");
    out->Text(call.name);
    out->Literal("\n");
    out->Text(call.arguments);
  }
}

}  // namespace

void WriteGlm4(ChatFormat::Messages messages, const ChatOptions& options, ChatWriter* out) {
  out->Control("[gMASK]");
  out->Control("<sop>");
  if (options.calls_tools()) {
    out->Control("<|system|>");
    out->Literal(
        "\n你是一个名为 ChatGLM 的人工智能助手。你是基于智谱AI训练的语言模型 GLM-4 模型开发的，"
        "你的任务是针对用户的问题和要求提供适当的答复和支持。\n\n# 可用工具");
    WriteGlm4Tools(options, out);
  }
  for (const ChatMessage& message : messages) WriteMessage(message, out);
  out->Control("<|assistant|>");
}

// System messages come first, wherever they stand.
void WriteGlm4Of0414(ChatFormat::Messages messages, const ChatOptions& options, ChatWriter* out) {
  out->Control("[gMASK]");
  out->Control("<sop>");
  if (options.calls_tools()) {
    out->Control("<|system|>");
    out->Literal("\n# 可用工具");
    WriteGlm4Tools(options, out);
  }
  for (const ChatMessage& message : messages) {
    if (message.role == "system") WriteMessage(message, out);
  }
  for (const ChatMessage& message : messages) {
    if (message.role != "system") WriteMessage(message, out);
  }
  out->Control("<|assistant|>");
}

}  // namespace qianyi
