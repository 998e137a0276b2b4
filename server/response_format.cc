#include "server/response_format.h"

#include <initializer_list>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "server/error.h"

namespace qianyi {
namespace {

absl::Status Bad(const std::string& what) {
  return BadParam("response_format", absl::StrCat("response_format", what));
}

absl::Status Only(const OrderedJson& object, const std::string& where,
                  std::initializer_list<std::string_view> names) {
  for (const auto& [name, value] : object.items()) {
    bool known = value.is_null();
    for (const std::string_view other : names) known = known || name == other;
    if (!known) {
      return Bad(absl::StrCat(where, ".", name.substr(0, 50), " is not supported here; remove it"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<JsonSchema> ReadJsonSchema(const OrderedJson& schema) {
  absl::StatusOr<JsonSchema> compiled = CompileJsonSchema(schema);
  if (!compiled.ok()) return Bad(absl::StrCat(".json_schema.", compiled.status().message()));
  return compiled;
}

absl::StatusOr<std::optional<JsonSchema>> ReadResponseFormat(const OrderedJson& format) {
  if (format.is_null()) return std::nullopt;
  const OrderedJson& type = Member(format, "type");
  if (type == "text" || type == "json_object") {
    if (absl::Status status = Only(format, "", {"type"}); !status.ok()) return status;
    if (type == "text") return std::nullopt;
    return AnyJsonObject();
  }
  if (type != "json_schema") {
    return Bad(".type must be text, json_object or json_schema");
  }
  const OrderedJson& wrapped = Member(format, "json_schema");
  if (absl::Status status = Only(format, "", {"type", "json_schema"}); !status.ok()) return status;
  if (!wrapped.is_object() || !wrapped.contains("schema")) {
    return Bad(".json_schema must be an object with a schema");
  }
  absl::Status status = Only(wrapped, ".json_schema", {"name", "schema", "strict", "description"});
  if (!status.ok()) return status;
  absl::StatusOr<JsonSchema> schema = ReadJsonSchema(wrapped["schema"]);
  if (!schema.ok()) return schema.status();
  return *std::move(schema);
}

}  // namespace qianyi
