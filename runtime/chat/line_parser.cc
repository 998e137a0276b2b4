// ChatGLM3 and GLM-4: a message begins with a line that is empty, or the name of a tool whose
// arguments follow: a JSON object, or a call in Python. Another message may follow in one answer,
// after <|assistant|>.
#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "runtime/chat/chat_format.h"
#include "runtime/chat/chat_json.h"
#include "runtime/chat/held_text.h"

namespace qianyi {
namespace {

constexpr std::string_view kNextMessage = "<|assistant|>";
constexpr std::string_view kFence = "```";

// Finds where the arguments of a call end, byte by byte.
class ArgumentsEnd {
 public:
  enum class Found { kNotYet, kEnd, kBad };
  explicit ArgumentsEnd(bool python) : python_(python) {}

  Found Take(char byte) { return python_ ? Fenced(byte) : Json(byte); }

 private:
  Found Json(char byte) {
    if (in_string_) {
      if (escaped_) {
        escaped_ = false;
      } else if (byte == '\\') {
        escaped_ = true;
      } else if (byte == '"') {
        in_string_ = false;
      }
      return Found::kNotYet;
    }
    if (depth_ == 0 && byte != '{') {
      return kAsciiSpace.find(byte) == std::string_view::npos ? Found::kBad : Found::kNotYet;
    }
    if (byte == '"') in_string_ = true;
    if (byte == '{' || byte == '[') ++depth_;
    if ((byte == '}' || byte == ']') && --depth_ == 0) return Found::kEnd;
    return Found::kNotYet;
  }

  // Three ticks, and three more at the beginning of a later line.
  Found Fenced(char byte) {
    if (!open_) {
      if (ticks_ == 0 && kAsciiSpace.find(byte) != std::string_view::npos) return Found::kNotYet;
      if (byte != '`') return Found::kBad;
      open_ = ++ticks_ == 3;
      return Found::kNotYet;
    }
    if (byte == '\n') {
      ticks_ = 0;
      at_line_ = true;
    } else if (byte == '`' && at_line_) {
      if (++ticks_ == 3) return Found::kEnd;
    } else {
      at_line_ = false;
    }
    return Found::kNotYet;
  }

  bool python_;
  bool in_string_ = false, escaped_ = false;
  int depth_ = 0;
  bool open_ = false, at_line_ = false;
  int ticks_ = 0;
};

class LineParser final : public ChatParser {
 public:
  LineParser(const ChatOptions& options, bool python) : python_(python), arguments_end_(python) {
    if (!options.calls_tools()) state_ = State::kContent;
    for (const ChatTool& tool : options.tools) {
      if (options.calls_tools()) tools_.push_back(tool.name);
    }
  }

  void Push(std::string_view text, std::vector<ChatDelta>* out) override {
    held_.Append(text);
    while (Step(/*last=*/false, out)) {
    }
  }
  void Finish(std::vector<ChatDelta>* out) override {
    while (Step(/*last=*/true, out)) {
    }
  }

 private:
  enum class State { kFirstLine, kContent, kCall, kAfterCall };

  bool Step(bool last, std::vector<ChatDelta>* out) {
    switch (state_) {
      case State::kFirstLine:
        return FirstLine(last);
      case State::kContent:
        return Content(last, out);
      case State::kCall:
        return Call(last, out);
      case State::kAfterCall:
        return AfterCall(last);
    }
    return false;
  }

  // A name in a line of its own, spaces around it, begins a call.
  bool FirstLine(bool last) {
    const std::string_view text = held_.view();
    const size_t end = text.find('\n');  // the line is no longer than a name and some spaces
    std::string_view line = text.substr(0, end);
    const size_t spaces = LeadingAsciiSpace(line);
    const std::string_view name = line.substr(spaces, line.size() - spaces);
    if (end == std::string_view::npos && !last) {
      const bool may_be = std::any_of(tools_.begin(), tools_.end(), [&](const std::string& tool) {
        return std::string_view(tool).starts_with(name) ||
               (name.starts_with(tool) &&
                LeadingAsciiSpace(name.substr(tool.size())) == name.size() - tool.size());
      });
      if (may_be && text.size() <= kLongestLine) return false;
      state_ = State::kContent;
      return true;
    }
    const std::string_view trimmed = name.substr(0, name.size() - TrailingAsciiSpace(name));
    state_ = State::kContent;
    if (end != std::string_view::npos &&
        std::find(tools_.begin(), tools_.end(), trimmed) != tools_.end()) {
      name_ = trimmed;
      state_ = State::kCall;
      arguments_begin_ = read_ = end + 1;
      arguments_end_ = ArgumentsEnd(python_);
    }
    return true;
  }

  bool Content(bool last, std::vector<ChatDelta>* out) {
    if (fresh_) held_.Drop(LeadingAsciiSpace(held_.view()));
    if (!held_.empty()) fresh_ = false;
    const std::string_view text = held_.view();
    const size_t next = tools_.empty() ? std::string_view::npos : held_.Find(kNextMessage);
    size_t certain = next == std::string_view::npos ? text.size() : next;
    if (next != std::string_view::npos) {
      certain -= held_.TrailingSpace(certain);
    } else if (!last && !tools_.empty()) {
      certain -= held_.PartialEnd(kNextMessage);
      certain -= held_.TrailingSpace(certain);
    }
    Emit(text.substr(0, certain), out);
    if (next == std::string_view::npos) {
      held_.Drop(last ? text.size() : certain);
      return false;
    }
    held_.Drop(next + kNextMessage.size());
    return NextMessage();
  }

  bool NextMessage() {
    held_.Forget();
    fresh_ = true;
    state_ = State::kFirstLine;
    return true;
  }

  bool Call(bool last, std::vector<ChatDelta>* out) {
    auto found = ArgumentsEnd::Found::kNotYet;
    const std::string_view text = held_.view();
    while (read_ < text.size() && found == ArgumentsEnd::Found::kNotYet) {
      found = arguments_end_.Take(text[read_++]);
    }
    if (found == ArgumentsEnd::Found::kNotYet && !last) return false;
    if (found == ArgumentsEnd::Found::kEnd) {
      const auto arguments = Arguments(text.substr(arguments_begin_, read_ - arguments_begin_));
      if (arguments.has_value()) {
        out->push_back({ChatDelta::Kind::kToolCall, SpacedJson(*arguments), name_});
        held_.Drop(read_);
        state_ = State::kAfterCall;
        return true;
      }
    }
    state_ = State::kContent;  // no call: text as it stands
    return true;
  }

  std::optional<OrderedJson> Arguments(std::string_view text) const {
    if (!python_) {
      OrderedJson value = ParseOrderedJson(text);
      if (value.is_object()) return value;
      return std::nullopt;
    }
    text.remove_prefix(text.find(kFence) + kFence.size());
    text.remove_suffix(kFence.size());
    const size_t line = text.find('\n');  // behind the name of the language
    if (line == std::string_view::npos) return std::nullopt;
    return ParsePythonCall(text.substr(line), "tool_call");
  }

  // <|assistant|> and another message, or text.
  bool AfterCall(bool last) {
    held_.Drop(LeadingAsciiSpace(held_.view()));
    if (held_.view().starts_with(kNextMessage)) {
      held_.Drop(kNextMessage.size());
      return NextMessage();
    }
    if (!last && kNextMessage.starts_with(held_.view())) return false;
    held_.Forget();
    fresh_ = true;
    state_ = State::kContent;
    return true;
  }

  static void Emit(std::string_view text, std::vector<ChatDelta>* out) {
    if (!text.empty()) out->push_back({ChatDelta::Kind::kContent, std::string(text)});
  }

  static constexpr size_t kLongestLine = 256;

  const bool python_;
  State state_ = State::kFirstLine;
  std::vector<std::string> tools_;
  HeldText held_;
  bool fresh_ = true;  // white space at the beginning is dropped
  std::string name_;
  ArgumentsEnd arguments_end_;
  size_t arguments_begin_ = 0;
  size_t read_ = 0;
};

}  // namespace

std::unique_ptr<ChatParser> MakePlainParser(const ChatOptions&) {
  return std::make_unique<LineParser>(ChatOptions(), /*python=*/false);
}

std::unique_ptr<ChatParser> MakeGlm4Parser(const ChatOptions& options) {
  return std::make_unique<LineParser>(options, /*python=*/false);
}

std::unique_ptr<ChatParser> MakeChatGlm3Parser(const ChatOptions& options) {
  return std::make_unique<LineParser>(options, /*python=*/true);
}

}  // namespace qianyi
