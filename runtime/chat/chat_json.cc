#include "runtime/chat/chat_json.h"

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <cstdint>

#include "runtime/parse_json.h"
#include "runtime/tokenizers/utf8.h"

namespace qianyi {
namespace {

std::string Dump(const OrderedJson& value) {
  return value.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
}

// One line of JSON or Python: they differ in three words.
void Append(const OrderedJson& value, bool python, std::string* out) {
  if (value.is_object()) {
    *out += '{';
    for (auto at = value.begin(); at != value.end(); ++at) {
      if (at != value.begin()) *out += ", ";
      *out += Dump(at.key()) + ": ";
      Append(at.value(), python, out);
    }
    *out += '}';
  } else if (value.is_array()) {
    *out += '[';
    for (size_t i = 0; i < value.size(); ++i) {
      if (i > 0) *out += ", ";
      Append(value[i], python, out);
    }
    *out += ']';
  } else if (python && value.is_null()) {
    *out += "None";
  } else if (python && value.is_boolean()) {
    *out += value.get<bool>() ? "True" : "False";
  } else {
    *out += Dump(value);
  }
}

class PythonReader {
 public:
  explicit PythonReader(std::string_view text) : rest_(text) {}

  std::optional<OrderedJson> Call(std::string_view function) {
    OrderedJson arguments = OrderedJson::object();
    if (Name() != function || !Take('(')) return std::nullopt;
    while (!Take(')')) {
      if (!arguments.empty() && !Take(',')) return std::nullopt;
      if (!arguments.empty() && Take(')')) break;  // after a last comma
      const std::string name(Name());
      OrderedJson value;
      if (name.empty() || arguments.contains(name) || !Take('=') || !Value(0, &value)) {
        return std::nullopt;
      }
      arguments[name] = std::move(value);
    }
    Skip();
    if (!rest_.empty()) return std::nullopt;
    return arguments;
  }

 private:
  static constexpr int kMaxDepth = 32;

  void Skip() {
    while (!rest_.empty() && std::isspace(static_cast<unsigned char>(rest_[0])) != 0) {
      rest_.remove_prefix(1);
    }
  }
  bool Take(char wanted) {
    Skip();
    if (rest_.empty() || rest_[0] != wanted) return false;
    rest_.remove_prefix(1);
    return true;
  }
  // ASCII letters, digits, _ and what is beyond ASCII.
  std::string_view Name() {
    Skip();
    size_t bytes = 0;
    while (bytes < rest_.size()) {
      const unsigned char byte = static_cast<unsigned char>(rest_[bytes]);
      if (byte < 0x80 && std::isalnum(byte) == 0 && byte != '_') break;
      ++bytes;
    }
    const std::string_view name = rest_.substr(0, bytes);
    rest_.remove_prefix(bytes);
    return name;
  }

  bool Value(int depth, OrderedJson* value) {
    Skip();
    if (rest_.empty() || depth == kMaxDepth) return false;
    if (rest_[0] == '\'' || rest_[0] == '"') {
      std::string text;
      if (!String(&text)) return false;
      *value = std::move(text);
      return true;
    }
    if (Take('[')) return List(depth, value);
    if (Take('{')) return Dictionary(depth, value);
    if (rest_[0] == '-' || std::isdigit(static_cast<unsigned char>(rest_[0])) != 0) {
      return Number(value);
    }
    const std::string_view name = Name();
    if (name == "True" || name == "true") *value = true;
    if (name == "False" || name == "false") *value = false;
    if (name == "None" || name == "null") *value = nullptr;
    return name == "True" || name == "true" || name == "False" || name == "false" ||
           name == "None" || name == "null";
  }

  bool List(int depth, OrderedJson* value) {
    *value = OrderedJson::array();
    while (!Take(']')) {
      if (!value->empty() && !Take(',')) return false;
      if (!value->empty() && Take(']')) break;
      OrderedJson item;
      if (!Value(depth + 1, &item)) return false;
      value->push_back(std::move(item));
    }
    return true;
  }

  bool Dictionary(int depth, OrderedJson* value) {
    *value = OrderedJson::object();
    while (!Take('}')) {
      if (!value->empty() && !Take(',')) return false;
      if (!value->empty() && Take('}')) break;
      Skip();
      std::string key;
      OrderedJson item;
      if (!String(&key) || !Take(':') || !Value(depth + 1, &item)) return false;
      (*value)[key] = std::move(item);
    }
    return true;
  }

  bool Number(OrderedJson* value) {
    const size_t bytes = std::min(rest_.find_first_not_of("+-.0123456789eE"), rest_.size());
    *value = ParseOrderedJson(rest_.substr(0, bytes));
    rest_.remove_prefix(bytes);
    return value->is_number();
  }

  bool Hex(size_t digits, char32_t* character) {
    if (rest_.size() < digits) return false;
    *character = 0;
    for (size_t i = 0; i < digits; ++i) {
      const unsigned char digit = static_cast<unsigned char>(rest_[i]);
      if (std::isxdigit(digit) == 0) return false;
      *character = *character << 4 |
                   static_cast<char32_t>(digit <= '9' ? digit - '0' : (digit | 0x20) - 'a' + 10);
    }
    rest_.remove_prefix(digits);
    return true;
  }

  bool Escape(std::string* text) {
    if (rest_.empty()) return false;
    const char kind = rest_[0];
    rest_.remove_prefix(1);
    constexpr std::string_view kPlain = "\\'\"nrtbf";
    constexpr std::string_view kMeant = "\\'\"\n\r\t\b\f";
    if (const size_t at = kPlain.find(kind); at != std::string_view::npos) {
      *text += kMeant[at];
      return true;
    }
    char32_t character = 0;
    if (kind == 'x' || kind == 'u' || kind == 'U') {
      if (!Hex(kind == 'x' ? 2 : kind == 'u' ? 4 : 8, &character)) return false;
      if (character > 0x10FFFF || (character >= 0xD800 && character <= 0xDFFF)) return false;
      AppendCharacter(character, text);
      return true;
    }
    *text += '\\';  // Python leaves what it does not know as it is
    *text += kind;
    return true;
  }

  bool String(std::string* text) {
    if (rest_.empty() || (rest_[0] != '\'' && rest_[0] != '"')) return false;
    const char quote = rest_[0];
    rest_.remove_prefix(1);
    while (!rest_.empty()) {
      const char byte = rest_[0];
      rest_.remove_prefix(1);
      if (byte == quote) return true;
      if (byte == '\n') return false;
      if (byte != '\\') {
        *text += byte;
      } else if (!Escape(text)) {
        return false;
      }
    }
    return false;
  }

  std::string_view rest_;
};

}  // namespace

OrderedJson ParseOrderedJson(std::string_view text) {
  if (NestsTooDeep(text)) return OrderedJson(OrderedJson::value_t::discarded);
  return OrderedJson::parse(text, nullptr, /*allow_exceptions=*/false);
}

const OrderedJson& Member(const OrderedJson& object, const char* name) {
  static const OrderedJson null;
  if (!object.is_object()) return null;
  const auto at = object.find(name);
  return at == object.end() ? null : at.value();
}

std::string SpacedJson(const OrderedJson& value) {
  std::string text;
  Append(value, /*python=*/false, &text);
  return text;
}

std::string PythonLiteral(const OrderedJson& value) {
  std::string text;
  Append(value, /*python=*/true, &text);
  return text;
}

std::optional<OrderedJson> ParsePythonCall(std::string_view text, std::string_view function) {
  return PythonReader(text).Call(function);
}

}  // namespace qianyi
