// The tokens of an answer with their probabilities, as they are shown to a client.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/sampler.h"
#include "runtime/tokenizers/tokenizer.h"

namespace qianyi {

struct TokenReport {
  struct Alternative {
    int32_t id = 0;
    std::string bytes;  // of a command its word
    float logprob = 0;  // natural log, of the model's own distribution
  };
  Alternative taken;
  std::vector<Alternative> top;  // the best ones, in order
  int64_t offset = 0;  // characters of the answer before the one it begins or goes on with
};

// What stands for the bytes in a text: themselves, with U+FFFD for parts of characters, or
// "token_id:7" of a token without any.
std::string ShownToken(const TokenReport::Alternative& token);
// Different for different bytes: "bytes:\xe6\x98" of parts of characters.
std::string TokenKey(const TokenReport::Alternative& token);

// Of one blank of one choice: which tokens the text that a client has by now is made of.
class TokenReporter {
 public:
  // `tokenizer` outlives this.
  explicit TokenReporter(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  void Add(const SampledToken& token);
  // So many more characters are with the client: the tokens that begin before their end.
  std::vector<TokenReport> Take(std::string_view text);
  // All that are left, when the text has come to its own end.
  std::vector<TokenReport> TakeRest();

 private:
  const Tokenizer& tokenizer_;
  std::vector<TokenReport> held_;
  bool run_start_ = true;
  std::string bytes_;       // not yet whole characters
  std::string text_;        // scratch
  int64_t characters_ = 0;  // whole ones of all tokens
  int64_t handed_on_ = 0;   // of them, with the client
};

}  // namespace qianyi
