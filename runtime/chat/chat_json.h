// JSON and Python's literals, as chat formats write them.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "nlohmann/json.hpp"

namespace qianyi {

using OrderedJson = nlohmann::ordered_json;  // members stay in the order they were written in

// A discarded value when `text` is not JSON or nests too deep.
OrderedJson ParseOrderedJson(std::string_view text);
// Null when `object` is no object or has no such member.
const OrderedJson& Member(const OrderedJson& object, const char* name);
// On one line with a space behind each comma and colon, as Python's json.dumps has it.
std::string SpacedJson(const OrderedJson& value);
// As a Python literal on one line.
std::string PythonLiteral(const OrderedJson& value);
// The keyword arguments of `function(a='x', b=[1, True])`, which is all of `text` but white space,
// as an object. Nullopt when it is not that: names, strings, numbers, lists, dictionaries, True,
// False and None, nested at most 32 deep.
std::optional<OrderedJson> ParsePythonCall(std::string_view text, std::string_view function);

}  // namespace qianyi
