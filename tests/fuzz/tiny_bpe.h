// A byte-level BPE of 256 bytes and a few merges, with GLM's command words: small enough for
// a fuzzer to find its way around in.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "runtime/tokenizers/commands.h"
#include "runtime/tokenizers/gpt2_bpe.h"
#include "runtime/tokenizers/utf8.h"

namespace qianyi {

inline std::unique_ptr<Tokenizer> TinyBpe() {
  std::map<std::string, int> vocabulary;
  const auto add = [&](const std::string& token) {
    vocabulary.emplace(token, static_cast<int>(vocabulary.size()));
  };
  char32_t next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const bool prints =
        (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    std::string token;
    AppendCharacter(prints ? static_cast<char32_t>(byte) : next++, &token);
    add(token);
  }
  std::string merges = "#version: 0.2\n";
  const char* pairs[][2] = {{"a", "a"},  {"a", "b"},        {"aa", "a"},
                            {"ab", "a"}, {"\xC4\xA0", "a"}, {"\xC3\xA4", "\xC2\xB8"}};
  for (const auto& pair : pairs) {
    add(std::string(pair[0]) + pair[1]);
    merges += std::string(pair[0]) + " " + pair[1] + "\n";
  }
  std::shared_ptr<const TextTokenizer> text =
      *Gpt2Bpe::Parse(nlohmann::json(vocabulary).dump(), merges, "vocabulary", "merges");
  return *CommandTokenizer::Create(
      std::move(text),
      {{"eos", "<e>", 300, false}, {"MASK", "[M]", 301, true}, {"gMASK", "[gM]", 302, true}});
}

// Ends the process, so that the fuzzer keeps the input.
inline void Require(bool condition) {
  if (!condition) __builtin_trap();
}

}  // namespace qianyi
