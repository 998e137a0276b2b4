// What must hold of every tokenizer of bytes, whatever its file says.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/tokenizers/tokenizer.h"
#include "runtime/tokenizers/utf8.h"

namespace qianyi {

// Ends the process, so that the fuzzer keeps the input, when plain text does not come back.
inline void EncodeAndDecode(const Tokenizer& tokenizer, std::string_view bytes) {
  std::string text;
  AppendRepaired(bytes, /*last=*/true, &text);
  const auto plain = tokenizer.Encode(text, /*specials=*/false);
  if (!plain.ok() || !tokenizer.Decode(*plain).ok()) __builtin_trap();
  const auto acting = tokenizer.Encode(text, /*specials=*/true);
  if (!acting.ok() || !tokenizer.Decode(*acting).ok()) __builtin_trap();
  for (int32_t id = -1; id <= std::min(tokenizer.vocab_size(), 1000); ++id) {
    if (tokenizer.TokenBytes(id).size() > (64u << 20)) __builtin_trap();
  }
}

}  // namespace qianyi
