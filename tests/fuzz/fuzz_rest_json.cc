// Bodies of the REST API: read by every endpoint, and what is refused is said in valid JSON.
#include <cstddef>
#include <cstdint>
#include <string>

#include "nlohmann/json.hpp"
#include "server/error.h"
#include "server/http/chat_shapes.h"
#include "server/http/rest_json.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string body(reinterpret_cast<const char*>(data), size);
  const auto check = [](const absl::StatusOr<qianyi::RestRequest>& request) {
    if (request.ok()) {
      const qianyi::Parameters& parameters = request->text.parameters;
      if (parameters.n < 1 || parameters.n > 128 || parameters.max_tokens < 0) __builtin_trap();
      return;
    }
    const auto error = nlohmann::json::parse(qianyi::ToJson(qianyi::ToApiError(request.status())),
                                             nullptr, /*allow_exceptions=*/false);
    if (error.is_discarded() || !error["error"]["message"].is_string()) __builtin_trap();
  };
  check(qianyi::ParseCompletion(body));
  check(qianyi::ParseChat(body));
  for (const auto parse :
       {qianyi::ParseResponses, qianyi::ParseMessages, qianyi::ParseCountTokens}) {
    const absl::StatusOr<qianyi::ShapedRequest> shaped = parse(body);
    check(shaped.ok() ? absl::StatusOr<qianyi::RestRequest>(shaped->rest)
                      : absl::StatusOr<qianyi::RestRequest>(shaped.status()));
  }
  const auto adapter = qianyi::ParseAdapter(body);
  if (adapter.ok() && (adapter->name.empty() || adapter->path.empty())) __builtin_trap();
  for (const qianyi::TaskInfo& info : qianyi::Tasks()) check(qianyi::ParseTask(info.task, body));
  return 0;
}
