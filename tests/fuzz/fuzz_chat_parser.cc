// The input is a format, how many bytes come at a time, and what a model wrote. However it is cut,
// the parser says the same, and each call's arguments are a JSON object.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/chat/chat_format.h"
#include "runtime/chat/chat_json.h"

namespace {

using namespace qianyi;

// Neighbours of one kind joined.
std::vector<ChatDelta> Parse(const ChatFormat& format, const ChatOptions& options,
                             std::string_view text, size_t step) {
  const auto parser = format.parser(options);
  std::vector<ChatDelta> deltas;
  for (size_t at = 0; at < text.size(); at += step) parser->Push(text.substr(at, step), &deltas);
  parser->Finish(&deltas);
  std::vector<ChatDelta> joined;
  for (const ChatDelta& delta : deltas) {
    const bool call = delta.kind == ChatDelta::Kind::kToolCall;
    if (call && !ParseOrderedJson(delta.text).is_object()) __builtin_trap();
    if (!call && !joined.empty() && joined.back().kind == delta.kind) {
      joined.back().text += delta.text;
    } else {
      joined.push_back(delta);
    }
  }
  return joined;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const ChatFormat& format = ChatFormats()[data[0] % ChatFormats().size()];
  const size_t step = data[1] % 16 + 1;
  const std::string_view text(reinterpret_cast<const char*>(data) + 2, size - 2);
  ChatOptions options;
  options.tools = {{"now",
                    R"({"type":"function","function":{"name":"now","parameters":{"properties":)"
                    R"({"a":{"type":"string"},"b":{}}}}})"}};
  options.thinking = (data[1] & 16) == 0;
  const auto whole = Parse(format, options, text, size);
  const auto cut = Parse(format, options, text, step);
  if (whole.size() != cut.size()) __builtin_trap();
  for (size_t i = 0; i < whole.size(); ++i) {
    if (whole[i].kind != cut[i].kind || whole[i].text != cut[i].text ||
        whole[i].name != cut[i].name) {
      __builtin_trap();
    }
  }
  return 0;
}
