// GLM-4.5 to 4.7: <think>reasoning</think> content <tool_call>name <arg_key>k</arg_key>
// <arg_value>v</arg_value> … </tool_call>, with or without line breaks between.
#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "runtime/chat/chat_format.h"
#include "runtime/chat/chat_json.h"
#include "runtime/chat/held_text.h"

namespace qianyi {
namespace {

constexpr std::string_view kThink = "<think>";
constexpr std::string_view kEndThink = "</think>";
constexpr std::string_view kCallTag = "<tool_call>";
constexpr std::string_view kEndCallTag = "</tool_call>";

std::string_view Trim(std::string_view text) {
  text.remove_prefix(LeadingAsciiSpace(text));
  text.remove_suffix(TrailingAsciiSpace(text));
  return text;
}

// Takes `tag` and the white space before it off the front.
bool TakeTag(std::string_view tag, std::string_view* rest) {
  const std::string_view text = rest->substr(LeadingAsciiSpace(*rest));
  if (!text.starts_with(tag)) return false;
  *rest = text.substr(tag.size());
  return true;
}

// What stands before `tag`, which is taken too.
std::optional<std::string_view> TakeUntil(std::string_view tag, std::string_view* rest) {
  const size_t at = rest->find(tag);
  if (at == std::string_view::npos) return std::nullopt;
  const std::string_view before = rest->substr(0, at);
  rest->remove_prefix(at + tag.size());
  return before;
}

// The types that a tool's schema gives its arguments: whether one is a string.
using StringArguments = std::map<std::string, bool, std::less<>>;

StringArguments StringsOf(const ChatTool& tool) {
  StringArguments strings;
  const OrderedJson json = ParseOrderedJson(tool.json);
  const OrderedJson& properties =
      Member(Member(Member(json, "function"), "parameters"), "properties");
  for (auto at = properties.begin(); properties.is_object() && at != properties.end(); ++at) {
    strings[at.key()] = Member(at.value(), "type") == "string";
  }
  return strings;
}

class TagParser final : public ChatParser {
 public:
  TagParser(const ChatOptions& options, bool in_reasoning)
      : state_(in_reasoning ? State::kReasoning : State::kStart), calls_(options.calls_tools()) {
    if (!calls_) return;
    for (const ChatTool& tool : options.tools) tools_[tool.name] = StringsOf(tool);
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
  using Kind = ChatDelta::Kind;
  enum class State { kStart, kReasoning, kContent, kCall };

  // True when there is more to do with what is held.
  bool Step(bool last, std::vector<ChatDelta>* out) {
    switch (state_) {
      case State::kStart:
        return Start(last);
      case State::kReasoning:
        return Run(Kind::kReasoning, kEndThink, last, out);
      case State::kContent:
        return Run(Kind::kContent, calls_ ? kCallTag : std::string_view(), last, out);
      case State::kCall:
        return Call(last, out);
    }
    return false;
  }

  // White space and <think>, or no <think>.
  bool Start(bool last) {
    held_.Drop(LeadingAsciiSpace(held_.view()));
    const std::string_view text = held_.view();
    if (text.starts_with(kThink)) {
      held_.Drop(kThink.size());
      state_ = State::kReasoning;
      return true;
    }
    if (!last && kThink.starts_with(text)) return false;
    state_ = State::kContent;
    return true;
  }

  // Lets text go up to `end`, without white space at either end of it.
  bool Run(Kind kind, std::string_view end, bool last, std::vector<ChatDelta>* out) {
    if (fresh_) held_.Drop(LeadingAsciiSpace(held_.view()));
    if (!held_.empty()) fresh_ = false;
    const size_t at = end.empty() ? std::string_view::npos : held_.Find(end);
    if (at == std::string_view::npos) {
      const std::string_view text = held_.view();
      size_t certain = text.size();
      if (!last && !end.empty()) {
        certain -= held_.PartialEnd(end);
        certain -= held_.TrailingSpace(certain);
      } else if (last && kind == Kind::kReasoning) {
        certain -= held_.TrailingSpace(certain);
      }
      Emit(kind, text.substr(0, certain), out);
      held_.Drop(last ? text.size() : certain);
      return false;
    }
    const std::string_view before = held_.view().substr(0, at);
    space_ = held_.TrailingSpace(at);
    Emit(kind, before.substr(0, at - space_), out);
    if (kind == Kind::kReasoning) {
      held_.Drop(at + end.size());
      state_ = State::kContent;
      fresh_ = true;
    } else {  // the white space stays: it comes back if this is no call
      held_.Drop(at - space_);
      state_ = State::kCall;
    }
    held_.Forget();
    return true;
  }

  bool Call(bool last, std::vector<ChatDelta>* out) {
    const size_t end = held_.Find(kEndCallTag);
    if (end == std::string_view::npos && !last) return false;
    state_ = State::kContent;
    const std::string_view text = held_.view();
    if (end == std::string_view::npos) {
      Emit(Kind::kContent, text, out);
      held_.Drop(text.size());
      return false;
    }
    const size_t begin = space_ + kCallTag.size();
    std::string name;
    const auto arguments = Arguments(text.substr(begin, end - begin), &name);
    if (arguments.has_value()) {
      out->push_back({Kind::kToolCall, SpacedJson(*arguments), name});
      fresh_ = true;
    } else {
      Emit(Kind::kContent, text.substr(0, end + kEndCallTag.size()), out);
    }
    held_.Drop(end + kEndCallTag.size());
    held_.Forget();
    return true;
  }

  // Nullopt when the call is of no tool that was offered, or is not as the format has it.
  std::optional<OrderedJson> Arguments(std::string_view body, std::string* name) const {
    const size_t first = std::min(body.find("<arg_key>"), body.size());
    *name = Trim(body.substr(0, first));
    body.remove_prefix(first);
    const auto tool = tools_.find(*name);
    if (tool == tools_.end()) return std::nullopt;
    OrderedJson arguments = OrderedJson::object();
    while (LeadingAsciiSpace(body) != body.size()) {
      if (!TakeTag("<arg_key>", &body)) return std::nullopt;
      const auto key = TakeUntil("</arg_key>", &body);
      if (!key.has_value() || !TakeTag("<arg_value>", &body)) return std::nullopt;
      const auto value = TakeUntil("</arg_value>", &body);
      if (!value.has_value()) return std::nullopt;
      const std::string trimmed(Trim(*key));
      const auto type = tool->second.find(trimmed);
      const bool is_string = type != tool->second.end() && type->second;
      OrderedJson parsed(OrderedJson::value_t::discarded);
      if (!is_string) parsed = ParseOrderedJson(Trim(*value));
      arguments[trimmed] = parsed.is_discarded() ? OrderedJson(std::string(*value)) : parsed;
    }
    return arguments;
  }

  static void Emit(Kind kind, std::string_view text, std::vector<ChatDelta>* out) {
    if (!text.empty()) out->push_back({kind, std::string(text)});
  }

  State state_;
  const bool calls_;
  std::map<std::string, StringArguments, std::less<>> tools_;
  HeldText held_;
  bool fresh_ = true;  // white space at the beginning is dropped
  size_t space_ = 0;   // bytes of it before the word that is held first
};

}  // namespace

std::unique_ptr<ChatParser> MakeGlm45Parser(const ChatOptions& options) {
  return std::make_unique<TagParser>(options, /*in_reasoning=*/false);
}

std::unique_ptr<ChatParser> MakeGlm47Parser(const ChatOptions& options) {
  const bool thinks = options.thinking && options.choice != ToolChoice::kRequired;
  return std::make_unique<TagParser>(options, thinks);
}

}  // namespace qianyi
