// GLM-4.5, 4.6 and 4.7: the chat templates published with them (zai-org/GLM-4.6, GLM-4.7). 4.7's
// has no line breaks between its parts, and opens <think> for the model.
#include <cstddef>
#include <string>
#include <string_view>

#include "runtime/chat/chat_format.h"
#include "runtime/chat/chat_json.h"
#include "runtime/tokenizers/utf8.h"

namespace qianyi {
namespace {

struct Style {
  std::string_view line;      // what separates the parts of a message
  std::string_view no_think;  // where no reasoning is
};
constexpr Style kGlm45 = {"\n", "<think></think>"};
constexpr Style kGlm47 = {"", "</think>"};

std::string_view Strip(std::string_view text) { return StripLeft(StripRight(text)); }
std::string_view StripLines(std::string_view text, bool left, bool right) {
  while (left && text.starts_with('\n')) text.remove_prefix(1);
  while (right && text.ends_with('\n')) text.remove_suffix(1);
  return text;
}

void WriteTools(const ChatOptions& options, const Style& style, ChatWriter* out) {
  out->Control("<|system|>");
  out->Literal(
      "\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are "
      "provided with function signatures within <tools></tools> XML tags:\n<tools>\n");
  for (const ChatTool& tool : options.tools) {
    out->Text(SpacedJson(ParseOrderedJson(tool.json)));
    out->Literal("\n");
  }
  out->Literal(
      "</tools>\n\nFor each function call, output the function name and arguments within the "
      "following XML format:\n");
  for (std::string_view part :
       {"<tool_call>{function-name}", "<arg_key>{arg-key-1}</arg_key>",
        "<arg_value>{arg-value-1}</arg_value>", "<arg_key>{arg-key-2}</arg_key>",
        "<arg_value>{arg-value-2}</arg_value>", "..."}) {
    out->Literal(part);
    out->Literal(style.line);
  }
  out->Literal("</tool_call>");
}

void WriteCall(const ToolCall& call, const Style& style, ChatWriter* out) {
  out->Literal(style.line);
  out->Literal("<tool_call>");
  out->Text(call.name);
  out->Literal(style.line);
  const OrderedJson arguments = ParseOrderedJson(call.arguments);
  for (auto at = arguments.begin(); at != arguments.end(); ++at) {
    out->Literal("<arg_key>");
    out->Text(at.key());
    out->Literal("</arg_key>");
    out->Literal(style.line);
    out->Literal("<arg_value>");
    out->Text(at.value().is_string() ? at.value().get<std::string>() : SpacedJson(at.value()));
    out->Literal("</arg_value>");
    out->Literal(style.line);
  }
  out->Literal("</tool_call>");
}

// Reasoning that a client sent within the content is taken out of it. Only what came after the
// last question is shown again.
void WriteAssistant(const ChatMessage& message, bool recent, const Style& style, ChatWriter* out) {
  std::string_view content = message.content;
  // A view of the message's own text: a conditional of it and "" would be a temporary string.
  std::string_view reasoning;
  if (message.reasoning.has_value()) reasoning = *message.reasoning;
  const size_t close = content.find("</think>");
  if (!message.reasoning.has_value() && close != std::string_view::npos) {
    reasoning = StripLines(content.substr(0, close), false, true);
    if (const size_t open = reasoning.rfind("<think>"); open != std::string_view::npos) {
      reasoning.remove_prefix(open + 7);
    }
    reasoning = StripLines(reasoning, true, false);
    content = StripLines(content.substr(content.rfind("</think>") + 8), true, false);
  }
  out->Control("<|assistant|>");
  out->Literal(style.line);
  if (recent && !reasoning.empty()) {
    out->Literal("<think>");
    out->Text(Strip(reasoning));
    out->Literal("</think>");
  } else {
    out->Literal(style.no_think);
  }
  if (content = Strip(content); !content.empty()) {
    out->Literal(style.line);
    out->Text(content);
  }
  for (const ToolCall& call : message.tool_calls) WriteCall(call, style, out);
}

void WriteMessages(ChatFormat::Messages messages, const ChatOptions& options, const Style& style,
                   ChatWriter* out) {
  size_t after_question = 0;
  for (size_t i = 0; i < messages.size(); ++i) {
    if (messages[i].role == "user") after_question = i + 1;
  }
  const bool off = !options.thinking && style.line == "\n";
  for (size_t i = 0; i < messages.size(); ++i) {
    const ChatMessage& message = messages[i];
    if (message.role == "assistant") {
      WriteAssistant(message, i >= after_question, style, out);
    } else if (message.role == "tool") {
      if (i == 0 || messages[i - 1].role != "tool") out->Control("<|observation|>");
      out->Literal(style.line);
      out->Literal("<tool_response>");
      out->Literal(style.line);
      out->Text(message.content);
      out->Literal(style.line);
      out->Literal("</tool_response>");
    } else {
      out->Control(message.role == "user" ? "<|user|>" : "<|system|>");
      out->Literal(style.line);
      out->Text(message.content);
      if (off && message.role == "user" && !message.content.ends_with("/nothink")) {
        out->Literal("/nothink");
      }
    }
  }
}

void Write(ChatFormat::Messages messages, const ChatOptions& options, const Style& style,
           ChatWriter* out) {
  out->Control("[gMASK]");
  out->Control("<sop>");
  if (options.calls_tools()) WriteTools(options, style, out);
  WriteMessages(messages, options, style, out);
  out->Control("<|assistant|>");
}

// A call that the request demands leaves no room to think.
bool Thinks(const ChatOptions& options) {
  return options.thinking && options.choice != ToolChoice::kRequired;
}

}  // namespace

void WriteGlm45(ChatFormat::Messages messages, const ChatOptions& options, ChatWriter* out) {
  Write(messages, options, kGlm45, out);
  if (!Thinks(options)) out->Literal("\n<think></think>");
}

void WriteGlm47(ChatFormat::Messages messages, const ChatOptions& options, ChatWriter* out) {
  Write(messages, options, kGlm47, out);
  out->Literal(Thinks(options) ? "<think>" : "</think>");
}

}  // namespace qianyi
