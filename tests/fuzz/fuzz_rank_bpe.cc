// The input is a text and a tokenizer.model of ranks, with a NUL byte between. Where the file does
// not say so itself, the 256 bytes are added, so that the rest of it is reached.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "runtime/tokenizers/rank_bpe.h"
#include "tests/fuzz/encode_and_decode.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace qianyi;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const std::string_view text = input.substr(0, input.find('\0'));
  const std::string file(input.substr(std::min(text.size() + 1, input.size())));
  std::string bytes;
  for (int byte = 0; byte < 256; ++byte) {
    bytes +=
        absl::StrCat(absl::Base64Escape(std::string(1, static_cast<char>(byte))), " ", byte, "\n");
  }
  for (const std::string& whole : {file, bytes + file}) {
    auto ranks = ParseRanks(whole, "tokenizer.model");
    if (!ranks.ok()) continue;
    auto specials = Glm4SpecialTokens((*ranks)->size());
    const auto tokenizer = AddedTokenTokenizer::Create(*std::move(ranks), std::move(specials));
    if (!tokenizer.ok()) __builtin_trap();
    EncodeAndDecode(**tokenizer, text);
  }
  return 0;
}
