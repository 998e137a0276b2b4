// The members of a request's JSON body, taken one by one.
#pragma once

#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "server/http/rest_json.h"
#include "server/parameters.h"

namespace qianyi {

// Whatever nobody took is refused at the end. Errors are InvalidArgument and name the member.
class RestBody {
 public:
  static absl::StatusOr<RestBody> Parse(const std::string& text);

  // Null when absent.
  const nlohmann::json& Take(const char* name);
  const nlohmann::json& Peek(const char* name) const;  // takes nothing
  absl::Status TakeString(const char* name, std::string* to);
  absl::Status TakeBool(const char* name, bool* to);
  // "store": answers are not kept.
  absl::Status RefuseStore();
  // "service_tier": whether it is batch work.
  absl::Status TakeTier(bool* batch);
  // "stream", "stream_options" and "service_tier".
  absl::Status TakeStream(RestRequest* request);
  // The parameters of the table (null: none are taken), and a refusal of what is left.
  absl::Status TakeRest(Parameters* parameters);

 private:
  explicit RestBody(nlohmann::json object) : object_(std::move(object)) {}
  nlohmann::json object_;
  std::set<std::string, std::less<>> taken_;
};

// "response_format"; `text` is the whole body.
absl::Status TakeResponseFormat(RestBody& body, const std::string& text, TextRequest* request);
// For endpoints that report no alternatives, or in another form.
absl::Status RefuseTopLogprobs(const Parameters& parameters, const char* remedy);

}  // namespace qianyi
