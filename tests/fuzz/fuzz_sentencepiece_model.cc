// The input is the length of a text in one byte, the text, and a model file.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/tokenizers/sentencepiece_tokenizer.h"
#include "runtime/tokenizers/utf8.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace qianyi;
  if (size == 0) return 0;
  std::string_view file(reinterpret_cast<const char*>(data) + 1, size - 1);
  const size_t length = std::min<size_t>(data[0], file.size());
  std::string text;
  AppendRepaired(file.substr(0, length), /*last=*/true, &text);
  const auto tokenizer = SentencePieceTokenizer::Parse(file.substr(length), "fuzz.model");
  if (!tokenizer.ok()) return 0;
  std::vector<int32_t> ids;
  std::vector<std::string> pieces;
  if (!(*tokenizer)->Encode(text, &ids).ok()) __builtin_trap();
  if (!(*tokenizer)->EncodePieces(text, &pieces).ok()) __builtin_trap();
  if (ids.size() != pieces.size()) __builtin_trap();
  bool run_start = true;
  std::string bytes;
  for (const int32_t id : ids) {
    if (!(*tokenizer)->Contains(id)) __builtin_trap();
    bytes += (*tokenizer)->Bytes(id, &run_start);
  }
  for (int32_t id = -1; id <= std::min((*tokenizer)->size(), 1000); ++id) {
    bytes += (*tokenizer)->Bytes(id, &run_start);
  }
  return bytes.size() == SIZE_MAX;  // uses them
}
