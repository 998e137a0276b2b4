// What a model wrote, taken apart while it is written: reasoning, text for the reader, tool calls.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace qianyi {

struct ChatDelta {
  enum class Kind : uint8_t { kContent, kReasoning, kToolCall };
  Kind kind = Kind::kContent;
  std::string text;       // or, of a call, its arguments: a JSON object
  std::string name = "";  // of a call
};

// A state machine over one choice's text. It may be cut anywhere: whole characters or parts of
// them, words in the middle. What turns out not to be a call is content, as it stands: a call is
// held back until it is complete, so nothing has to be taken back. Time is linear in the text.
class ChatParser {
 public:
  virtual ~ChatParser() = default;
  // Appends to `out` what is certain by now.
  virtual void Push(std::string_view text, std::vector<ChatDelta>* out) = 0;
  // The text has ended: appends the rest.
  virtual void Finish(std::vector<ChatDelta>* out) = 0;
};

}  // namespace qianyi
