// Bodies about pictures, JSON and forms: read, and what is refused is said in valid JSON. The first
// line is the Content-Type.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "nlohmann/json.hpp"
#include "server/error.h"
#include "server/http/rest_image_body.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const size_t line = text.find('\n');
  if (line == text.npos) return 0;
  const auto request =
      qianyi::ParseImage(qianyi::ImageWork::kEdit, text.substr(0, line), text.substr(line + 1));
  if (request.ok()) {
    if (request->parameters.n < 1 || request->parameters.n > 128 || request->candidates < 0 ||
        request->partial_images < 0 || request->quality < 1 || request->quality > 100) {
      __builtin_trap();
    }
    return 0;
  }
  const auto error = nlohmann::json::parse(qianyi::ToJson(qianyi::ToApiError(request.status())),
                                           nullptr, /*allow_exceptions=*/false);
  if (error.is_discarded() || !error["error"]["message"].is_string()) __builtin_trap();
  return 0;
}
