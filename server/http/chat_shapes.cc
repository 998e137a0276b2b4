#include "server/http/chat_shapes.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "server/error.h"

namespace qianyi {

absl::Status Renamed(const absl::Status& status,
                     std::initializer_list<std::pair<const char*, const char*>> words) {
  if (status.ok()) return status;
  const ApiError error = ToApiError(status);
  std::string message = error.message, param = error.param;
  for (const auto& [from, to] : words) {
    for (std::string* text : {&message, &param}) {
      if (const size_t at = text->find(from); at != text->npos) {
        text->replace(at, std::string_view(from).size(), to);
      }
    }
  }
  return WithParam(absl::Status(status.code(), message), param);
}

absl::StatusOr<std::string> ReadText(const OrderedJson& content, const std::string& where,
                                     std::initializer_list<const char*> types) {
  if (content.is_string()) return content.get<std::string>();
  std::string text;
  const auto known = [&](const OrderedJson& part) {
    const OrderedJson& type = Member(part, "type");
    return Member(part, "text").is_string() &&
           std::any_of(types.begin(), types.end(), [&](const char* t) { return type == t; });
  };
  if (!content.is_array()) {
    return BadParam(where, absl::StrFormat("%s must be a string or a list of parts", where));
  }
  for (size_t i = 0; i < content.size(); ++i) {
    if (known(content[i])) {
      text += Member(content[i], "text").get<std::string>();
      continue;
    }
    const std::string part = absl::StrFormat("%s[%d]", where, i);
    return BadParam(part, absl::StrFormat("%s must be {\"type\": \"%s\", \"text\": …}; other parts "
                                          "are not supported here",
                                          part, *types.begin()));
  }
  return text;
}

OrderedJson AsFunction(const OrderedJson& tool, const char* schema) {
  OrderedJson function = OrderedJson::object();
  for (const auto& [from, to] :
       {std::pair("name", "name"), {"description", "description"}, {schema, "parameters"}}) {
    if (const OrderedJson& value = Member(tool, from); !value.is_null()) function[to] = value;
  }
  return {{"type", "function"}, {"function", std::move(function)}};
}

absl::Status Unsupported(const std::string& name, const nlohmann::json& value,
                         const std::string& remedy) {
  if (value.is_null()) return absl::OkStatus();
  return BadParam(name, absl::StrFormat("%s is not supported here; %s", name, remedy));
}

}  // namespace qianyi
