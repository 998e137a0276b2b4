// ChatGLM-6B and ChatGLM2-6B: a conversation is one text of numbered rounds.
#include <cstddef>

#include "absl/strings/str_cat.h"
#include "runtime/chat/chat_format.h"

namespace qianyi {

// zai-org/ChatGLM-6B: a first question stands alone, later ones in rounds counted from 0; then
// [gMASK] and <sop>. The format has no system messages: they are text in front.
void WriteChatGlm6b(ChatFormat::Messages messages, const ChatOptions&, ChatWriter* out) {
  size_t questions = 0;
  for (const ChatMessage& message : messages) questions += message.role == "user" ? 1 : 0;
  const bool alone = questions == 1 && messages.back().role == "user";
  size_t round = 0;
  for (const ChatMessage& message : messages) {
    if (message.role == "user" && alone) {
      out->Text(message.content);
    } else if (message.role == "user") {
      out->Literal(absl::StrCat("[Round ", round++, "]\n问："));
      out->Text(message.content);
      out->Literal("\n答：");
    } else {
      out->Text(message.content);
      out->Literal("\n");
    }
  }
  out->Control("[gMASK]");
  out->Control("<sop>");
}

// zai-org/ChatGLM2-6B: rounds counted from 1, after [gMASK] and sop.
void WriteChatGlm2(ChatFormat::Messages messages, const ChatOptions&, ChatWriter* out) {
  out->Control("[gMASK]");
  out->Control("sop");
  size_t round = 0;
  for (const ChatMessage& message : messages) {
    if (message.role == "user") {
      out->Literal(absl::StrCat("[Round ", ++round, "]\n\n问："));
      out->Text(message.content);
      out->Literal("\n\n答：");
    } else {
      out->Text(message.content);
      out->Literal("\n\n");
    }
  }
}

}  // namespace qianyi
