#include "server/chat_tools.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "server/error.h"

namespace qianyi {
namespace {

bool IsName(const std::string& name) {
  return !name.empty() && name.size() <= kMaxToolNameBytes &&
         std::all_of(name.begin(), name.end(), [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                  c == '_' || c == '-';
         });
}

std::string Shown(const OrderedJson& value) {
  const std::string text = value.dump(-1, ' ', true, OrderedJson::error_handler_t::replace);
  return text.size() > 80 ? text.substr(0, 80) + "..." : text;
}

absl::Status ReadName(const OrderedJson& value, const std::string& where, std::string* name) {
  if (value.is_string() && IsName(value.get_ref<const std::string&>())) {
    *name = value.get<std::string>();
    return absl::OkStatus();
  }
  return BadParam(where, absl::StrFormat("%s is %s; it must be 1 to %d letters of a-z and A-Z, "
                                         "digits, _ and -",
                                         where, Shown(value), kMaxToolNameBytes));
}

int Depth(const OrderedJson& value) {  // JSON that was parsed is at most kMaxJsonDepth deep
  int deepest = 0;
  if (!value.is_structured()) return 0;
  for (const OrderedJson& member : value) deepest = std::max(deepest, Depth(member));
  return deepest + 1;
}

absl::Status CheckFunction(const OrderedJson& function, const std::string& where) {
  const OrderedJson& description = Member(function, "description");
  if (!description.is_null() && !description.is_string()) {
    return BadParam(where + ".description", where + ".description must be a string");
  }
  const OrderedJson& parameters = Member(function, "parameters");
  if (!parameters.is_null() && !parameters.is_object()) {
    return BadParam(where + ".parameters", where + ".parameters must be a JSON schema, an object");
  }
  if (const int depth = Depth(parameters); depth > kMaxToolDepth) {
    return BadParam(where + ".parameters",
                    absl::StrFormat("%s.parameters nests %d deep; at most %d are taken: flatten it",
                                    where, depth, kMaxToolDepth));
  }
  return absl::OkStatus();
}

absl::Status ReadTool(const OrderedJson& entry, const std::string& where, ChatTool* tool) {
  const OrderedJson& type = Member(entry, "type");
  if (type != "function") {
    return BadParam(where + ".type", absl::StrFormat("%s.type is %s; only function is supported",
                                                     where, Shown(type)));
  }
  const OrderedJson& function = Member(entry, "function");
  const std::string inner = where + ".function";
  if (!function.is_object()) return BadParam(inner, inner + " must be an object");
  absl::Status status = ReadName(Member(function, "name"), inner + ".name", &tool->name);
  if (status.ok()) status = CheckFunction(function, inner);
  if (!status.ok()) return status;
  tool->json = entry.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
  if (tool->json.size() <= kMaxToolBytes) return absl::OkStatus();
  return BadParam(where, absl::StrFormat("%s has %d bytes; at most %d are taken: shorten it", where,
                                         tool->json.size(), kMaxToolBytes));
}

}  // namespace

absl::Status ReadTools(const OrderedJson& list, std::vector<ChatTool>* tools) {
  if (list.is_null()) return absl::OkStatus();
  if (!list.is_array()) return BadParam("tools", "tools must be a list");
  if (list.size() > kMaxTools) {
    return BadParam("tools", absl::StrFormat("tools has %d entries; at most %d are taken",
                                             list.size(), kMaxTools));
  }
  size_t bytes = 0;
  for (size_t i = 0; i < list.size(); ++i) {
    ChatTool tool;
    const std::string where = absl::StrFormat("tools[%d]", i);
    if (absl::Status status = ReadTool(list[i], where, &tool); !status.ok()) return status;
    for (const ChatTool& other : *tools) {
      if (other.name != tool.name) continue;
      return BadParam(where + ".function.name",
                      absl::StrFormat("%s.function.name is %s, as another tool's is; rename one",
                                      where, tool.name));
    }
    bytes += tool.json.size();
    tools->push_back(std::move(tool));
  }
  if (bytes <= kMaxToolsBytes) return absl::OkStatus();
  return BadParam("tools", absl::StrFormat("tools have %d bytes together; at most %d are taken",
                                           bytes, kMaxToolsBytes));
}

absl::Status ReadToolChoice(const OrderedJson& choice, ChatOptions* options) {
  if (choice.is_null() || choice == "auto") return absl::OkStatus();
  if (choice == "none") {
    options->choice = ToolChoice::kNone;
    return absl::OkStatus();
  }
  const bool named = choice.is_object() && Member(choice, "type") == "function";
  if (choice != "required" && !named) {
    return BadParam("tool_choice",
                    absl::StrFormat("tool_choice is %s; it must be auto, none, required or "
                                    "{\"type\": \"function\", \"function\": {\"name\": …}}",
                                    Shown(choice)));
  }
  options->choice = ToolChoice::kRequired;
  if (options->tools.empty()) {
    return BadParam("tool_choice", "tool_choice demands a tool, but tools is empty");
  }
  if (!named) return absl::OkStatus();
  const OrderedJson& name = Member(Member(choice, "function"), "name");
  for (const ChatTool& tool : options->tools) {
    if (name == tool.name) options->chosen_tool = tool.name;
  }
  if (!options->chosen_tool.empty()) return absl::OkStatus();
  return BadParam(
      "tool_choice.function.name",
      absl::StrFormat("tool_choice.function.name is %s, which no tool is called", Shown(name)));
}

absl::Status ReadToolCalls(const OrderedJson& list, const std::string& where,
                           std::vector<ToolCall>* calls) {
  if (list.is_null()) return absl::OkStatus();
  if (!list.is_array() || list.size() > kMaxToolCalls) {
    return BadParam(where,
                    absl::StrFormat("%s must be a list of at most %d", where, kMaxToolCalls));
  }
  for (size_t i = 0; i < list.size(); ++i) {
    const std::string entry = absl::StrFormat("%s[%d].function", where, i);
    const OrderedJson& function = Member(list[i], "function");
    const OrderedJson& id = Member(list[i], "id");
    ToolCall call;
    if (id.is_string()) call.id = id.get<std::string>();
    absl::Status status = ReadName(Member(function, "name"), entry + ".name", &call.name);
    if (!status.ok()) return status;
    const OrderedJson& arguments = Member(function, "arguments");
    if (arguments.is_string()) call.arguments = arguments.get<std::string>();
    if (!ParseOrderedJson(call.arguments).is_object()) {
      return BadParam(entry + ".arguments",
                      entry + ".arguments must be a string that is a JSON object");
    }
    calls->push_back(std::move(call));
  }
  return absl::OkStatus();
}

}  // namespace qianyi
