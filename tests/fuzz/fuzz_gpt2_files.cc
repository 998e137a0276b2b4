// The input is vocab.json, merges.txt and a text, with NUL bytes between.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/tokenizers/gpt2_bpe.h"
#include "runtime/tokenizers/utf8.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace qianyi;
  std::string_view rest(reinterpret_cast<const char*>(data), size);
  std::string_view parts[3];
  for (std::string_view& part : parts) {
    part = rest.substr(0, rest.find('\0'));
    rest.remove_prefix(std::min(part.size() + 1, rest.size()));
  }
  const auto bpe = Gpt2Bpe::Parse(parts[0], parts[1], "vocab.json", "merges.txt");
  if (!bpe.ok()) return 0;
  std::string text;
  AppendRepaired(parts[2], /*last=*/true, &text);
  std::vector<int32_t> ids;
  if (!(*bpe)->Encode(text, &ids).ok()) __builtin_trap();
  bool run_start = true;
  size_t bytes = 0;
  for (const int32_t id : ids) bytes += (*bpe)->Bytes(id, &run_start).size();
  for (int32_t id = -1; id <= std::min((*bpe)->size(), 1000); ++id) {
    bytes += (*bpe)->Bytes(id, &run_start).size();
  }
  return bytes == SIZE_MAX;  // uses the sum
}
