// Text to token ids and back.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json_fwd.hpp"

namespace qianyi {

// Immutable after loading; every method is thread-safe.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // `specials`: command words ("[MASK]", "<|endoftext|>") in the text become their ids;
  // otherwise they are ordinary text. InvalidArgument on invalid UTF-8 (says at which byte).
  virtual absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text,
                                                      bool specials) const = 0;
  // Ids outside the vocabulary are InvalidArgument. Bytes that are no UTF-8 become U+FFFD.
  virtual absl::StatusOr<std::string> Decode(std::span<const int32_t> ids) const = 0;
  // The raw bytes token `id` adds after other tokens, for streaming; may be part of a
  // character. Empty for control tokens and unknown ids. Lives as long as the tokenizer.
  virtual std::string_view TokenBytes(int32_t id) const = 0;
  // The same at one place of a stream: `run_start`, true before the first token and updated
  // by each, is where sentencepiece drops a leading space (again after a command word). The
  // repaired concatenation is Decode's result.
  virtual std::string_view NextBytes(int32_t id, bool* run_start) const = 0;

  virtual int32_t vocab_size() const = 0;
  // The id of a command by its role: "MASK", "gMASK", "sMASK", "sop", "eop", "eos", "ENC",
  // "pad"; -1 when the tokenizer has none.
  virtual int32_t CommandId(std::string_view role) const = 0;
  // The id of a command by its word: "<|user|>", "<think>", "sop"; -1 when there is none.
  virtual int32_t WordId(std::string_view) const { return -1; }
};

// Opens the tokenizer of a model folder: config.json's "tokenizer" object, or else the
// files found there. NotFound when the folder has none.
absl::StatusOr<std::unique_ptr<Tokenizer>> OpenTokenizer(const std::string& folder);

// A table of command words as a fixture or config lists it:
// [{"name": role, "token": word, "id": id, "lstrip": bool}, …]. InvalidArgument if malformed.
struct CommandToken {
  std::string role;
  std::string word;
  int32_t id = 0;
  bool strips_left = false;  // removes white space on its left
};
absl::StatusOr<std::vector<CommandToken>> ParseCommands(const nlohmann::json& list);

}  // namespace qianyi
