// The input is a text and a tokenizer.json, with a NUL byte between.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "runtime/tokenizers/tokenizer_json.h"
#include "runtime/tokenizers/utf8.h"
#include "tests/fuzz/encode_and_decode.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace qianyi;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const std::string_view text = input.substr(0, input.find('\0'));
  const std::string_view file = input.substr(std::min(text.size() + 1, input.size()));
  const auto tokenizer = ParseTokenizerJson(file, "tokenizer.json");
  if (tokenizer.ok()) EncodeAndDecode(**tokenizer, text);
  return 0;
}
