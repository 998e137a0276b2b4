// A second opinion on JSON and schemas, for tests: written from the standard, sharing nothing with
// what it judges but the JSON library.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "runtime/chat/chat_json.h"

namespace qianyi::testing {

// `seen`: references that were followed for this value; those that lead back fail.
using SeenSchemas = std::vector<const OrderedJson*>;
inline bool Satisfies(const OrderedJson& value, const OrderedJson& schema, const OrderedJson& root,
                      SeenSchemas seen_here = {}, SeenSchemas* seen = nullptr);

inline bool HasJsonType(const OrderedJson& value, const std::string& type) {
  if (type == "object") return value.is_object();
  if (type == "array") return value.is_array();
  if (type == "string") return value.is_string();
  if (type == "boolean") return value.is_boolean();
  if (type == "null") return value.is_null();
  if (type == "integer") return value.is_number_integer();
  return type == "number" && value.is_number();
}

inline bool SatisfiesObject(const OrderedJson& value, const OrderedJson& schema,
                            const OrderedJson& root) {
  for (const OrderedJson& name : Member(schema, "required")) {
    if (!value.contains(name.get<std::string>())) return false;
  }
  const OrderedJson& properties = Member(schema, "properties");
  const OrderedJson& more = Member(schema, "additionalProperties");
  for (const auto& [name, item] : value.items()) {
    const bool listed = properties.is_object() && properties.contains(name);
    const OrderedJson& rule = listed ? properties[name] : more;
    if (rule == false || (!rule.is_null() && !Satisfies(item, rule, root))) return false;
  }
  return true;
}

inline bool WithinCounts(const OrderedJson& schema, const char* least, const char* most,
                         int64_t count) {
  return count >= schema.value(least, int64_t{0}) && count <= schema.value(most, int64_t{1} << 40);
}

// `root` is where references begin.
inline bool Satisfies(const OrderedJson& value, const OrderedJson& schema, const OrderedJson& root,
                      SeenSchemas seen_here, SeenSchemas* seen) {
  if (seen == nullptr) seen = &seen_here;
  if (!schema.is_object()) return schema == true;
  if (schema.contains("$ref")) {
    const std::string path = schema["$ref"].get<std::string>();
    const OrderedJson& target = path == "#" ? root : root["$defs"][path.substr(8)];
    if (std::find(seen->begin(), seen->end(), &target) != seen->end()) return false;
    seen->push_back(&target);
    return Satisfies(value, target, root, {}, seen);
  }
  if (schema.contains("anyOf")) {
    const OrderedJson& parts = schema["anyOf"];
    return std::any_of(parts.begin(), parts.end(), [&](const OrderedJson& part) {
      return Satisfies(value, part, root, {}, seen);
    });
  }
  if (schema.contains("const") && value != schema["const"]) return false;
  if (schema.contains("enum")) {
    const OrderedJson& list = schema["enum"];
    if (std::find(list.begin(), list.end(), value) == list.end()) return false;
  }
  if (schema.contains("type")) {
    const OrderedJson& type = schema["type"];
    const OrderedJson list = type.is_string() ? OrderedJson::array({type}) : type;
    if (std::none_of(list.begin(), list.end(), [&](const OrderedJson& name) {
          return HasJsonType(value, name.get<std::string>());
        })) {
      return false;
    }
  }
  if (value.is_string()) {
    const std::string& text = value.get_ref<const std::string&>();
    const auto characters =
        std::count_if(text.begin(), text.end(), [](char byte) { return (byte & 0xC0) != 0x80; });
    return WithinCounts(schema, "minLength", "maxLength", characters);
  }
  if (value.is_array()) {
    const OrderedJson& items = Member(schema, "items");
    const bool good =
        items.is_null() || std::all_of(value.begin(), value.end(), [&](const OrderedJson& item) {
          return Satisfies(item, items, root);
        });
    return good && WithinCounts(schema, "minItems", "maxItems", static_cast<int64_t>(value.size()));
  }
  return !value.is_object() || SatisfiesObject(value, schema, root);
}

}  // namespace qianyi::testing
