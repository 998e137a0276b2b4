// What the bodies of /v1/responses and /v1/messages share, being chats in other words.
#pragma once

#include <initializer_list>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "runtime/chat/chat_json.h"
#include "server/http/rest_json.h"

namespace qianyi {

// A request of either, as a chat of one choice.
struct ShapedRequest {
  RestRequest rest;
  nlohmann::json echo = {};  // members that the answer repeats
};

// InvalidArgument names the field, in the words of the API that was spoken.
absl::StatusOr<ShapedRequest> ParseResponses(const std::string& body);
absl::StatusOr<ShapedRequest> ParseMessages(const std::string& body);
// Of /v1/messages/count_tokens: no max_tokens, no stream.
absl::StatusOr<ShapedRequest> ParseCountTokens(const std::string& body);

// The same error with words of its message and parameter replaced, each where it occurs first.
absl::Status Renamed(const absl::Status& status,
                     std::initializer_list<std::pair<const char*, const char*>> words);
// A string, or a list of {"type": one of `types`, "text": …}, joined.
absl::StatusOr<std::string> ReadText(const OrderedJson& content, const std::string& where,
                                     std::initializer_list<const char*> types);
// `tool` {"name", "description", `schema`: …} as {"type": "function", "function": …}.
OrderedJson AsFunction(const OrderedJson& tool, const char* schema);
// Null, or a sentence that says that `name` is not supported.
absl::Status Unsupported(const std::string& name, const nlohmann::json& value,
                         const std::string& remedy);

}  // namespace qianyi
