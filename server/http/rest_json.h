// JSON bodies of the REST API: read into requests, written from answers.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "runtime/sink.h"
#include "server/text_request.h"

namespace qianyi {

// What a body of one of the text endpoints asks for.
struct RestRequest {
  TextRequest text;
  bool stream = false;
  bool include_usage = false;  // stream_options
};

// InvalidArgument with the field at fault; fields that are not known are refused by name.
absl::StatusOr<RestRequest> ParseCompletion(const std::string& body);
absl::StatusOr<RestRequest> ParseChat(const std::string& body);
absl::StatusOr<RestRequest> ParseTask(Task task, const std::string& body);
absl::StatusOr<AdapterRequest> ParseAdapter(const std::string& body);

// "stop" or "length".
const char* NameOf(FinishReason reason);
nlohmann::json ToJson(const Usage& usage);
// One line, invalid UTF-8 replaced.
std::string Dump(const nlohmann::json& json);

}  // namespace qianyi
