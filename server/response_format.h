// What a request says of the form of its answer.
#pragma once

#include <optional>

#include "absl/status/statusor.h"
#include "runtime/chat/chat_json.h"
#include "runtime/json/json_schema.h"

namespace qianyi {

// OpenAI's response_format: {"type": "text"}, or none: nullopt; {"type": "json_object"};
// {"type": "json_schema", "json_schema": {"name", "schema", "strict", "description"}}. What is
// wrong with it is InvalidArgument by name. Compiles the schema, on the caller's thread.
absl::StatusOr<std::optional<JsonSchema>> ReadResponseFormat(const OrderedJson& format);
// The schema alone.
absl::StatusOr<JsonSchema> ReadJsonSchema(const OrderedJson& schema);

}  // namespace qianyi
