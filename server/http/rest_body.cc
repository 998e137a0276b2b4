#include "server/http/rest_body.h"

#include <utility>

#include "absl/strings/str_format.h"
#include "runtime/parse_json.h"
#include "server/error.h"

namespace qianyi {
namespace {

using nlohmann::json;

// Fields of OpenAI's API that change nothing here.
const std::set<std::string, std::less<>>& Ignored() {
  static const std::set<std::string, std::less<>> names = {"user", "metadata", "safety_identifier",
                                                           "prompt_cache_key"};
  return names;
}

}  // namespace

absl::StatusOr<RestBody> RestBody::Parse(const std::string& text) {
  json value = ParseJson(text);
  if (value.is_discarded()) {
    return absl::InvalidArgumentError(
        "the body is not JSON in valid UTF-8 (nested at most 64 deep); check quotes and "
        "encoding");
  }
  if (!value.is_object()) return absl::InvalidArgumentError("the body must be a JSON object");
  return RestBody(std::move(value));
}

const json& RestBody::Take(const char* name) {
  taken_.insert(name);
  return Peek(name);
}

const json& RestBody::Peek(const char* name) const {
  static const json null;
  const auto at = object_.find(name);
  return at == object_.end() ? null : *at;
}

absl::Status RestBody::TakeString(const char* name, std::string* to) {
  const json& value = Take(name);
  if (value.is_null()) return absl::OkStatus();
  if (!value.is_string()) return BadParam(name, absl::StrFormat("%s must be a string", name));
  *to = value.get<std::string>();
  return absl::OkStatus();
}

absl::Status RestBody::TakeBool(const char* name, bool* to) {
  const json& value = Take(name);
  if (value.is_null()) return absl::OkStatus();
  if (!value.is_boolean()) {
    return BadParam(name, absl::StrFormat("%s must be true or false", name));
  }
  *to = value.get<bool>();
  return absl::OkStatus();
}

absl::Status RestBody::TakeTier(bool* batch) {
  const json& tier = Take("service_tier");
  if (tier.is_null()) return absl::OkStatus();
  for (const char* known : {"auto", "default", "standard_only", "priority", "flex"}) {
    if (tier == known) {
      *batch = tier == "flex";
      return absl::OkStatus();
    }
  }
  return BadParam("service_tier",
                  "service_tier must be flex, which waits until nothing else does, or auto, "
                  "default, standard_only or priority, which are one here");
}

absl::Status RestBody::RefuseStore() {
  bool store = false;
  if (absl::Status status = TakeBool("store", &store); !status.ok()) return status;
  if (!store) return absl::OkStatus();
  return BadParam("store", "store is true, but answers are not kept here; remove it");
}

absl::Status RestBody::TakeRest(Parameters* parameters) {
  if (absl::Status status = RefuseStore(); !status.ok()) return status;
  for (const auto& [name, value] : object_.items()) {
    if (taken_.count(name) != 0 || Ignored().count(name) != 0) continue;
    if (!IsParameter(name)) {
      if (value.is_null() || value == false || value == json::array()) continue;  // not asked for
      const std::string shown = name.substr(0, 100);
      return BadParam(shown, absl::StrFormat("%s is not supported here; remove it", shown));
    }
    if (parameters == nullptr) return BadParam(name, name + " means nothing here; remove it");
    if (absl::Status status = SetParameter(name, value, parameters); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status RestBody::TakeStream(RestRequest* request) {
  if (absl::Status status = TakeTier(&request->text.batch); !status.ok()) return status;
  if (absl::Status status = TakeBool("stream", &request->stream); !status.ok()) return status;
  request->text.streamed = request->stream;
  const json& options = Take("stream_options");
  if (options.is_null()) return absl::OkStatus();
  if (!options.is_object()) return BadParam("stream_options", "stream_options must be an object");
  const json usage = options.value("include_usage", json());
  if (!usage.is_null() && !usage.is_boolean()) {
    return BadParam("stream_options.include_usage", "include_usage must be true or false");
  }
  for (const auto& [name, value] : options.items()) {
    if (name == "include_usage" || value.is_null() || value == false) continue;
    const std::string where = "stream_options." + name.substr(0, 100);
    return BadParam(where, absl::StrFormat("%s is not supported here; remove it", where));
  }
  request->include_usage = usage == true;
  return absl::OkStatus();
}

}  // namespace qianyi
