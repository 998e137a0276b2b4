// The input is a text: what is encoded must decode to it again.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "tests/fuzz/tiny_bpe.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace qianyi;
  static const std::unique_ptr<Tokenizer> tokenizer = TinyBpe();
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const bool is_utf8 = WellFormedPrefix(text) == size;
  const auto ids = tokenizer->Encode(text, /*specials=*/false);
  Require(ids.ok() == is_utf8);
  const auto with_commands = tokenizer->Encode(text, /*specials=*/true);
  Require(with_commands.ok() == is_utf8);
  if (!is_utf8) return 0;
  Require(*tokenizer->Decode(*ids) == text);
  // Only white space goes, on the left of masks.
  Require(tokenizer->Decode(*with_commands)->size() <= size);
  return 0;
}
