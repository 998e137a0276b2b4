// Writes a conversation as a model's format has it: control words, and text between them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/tokenizers/tokenizer.h"

namespace qianyi {

class ChatWriter {
 public:
  // A word that the tokenizer must have as one token.
  void Control(std::string_view word) { parts_.push_back({std::string(word), Kind::kControl}); }
  // The format's own text: words such as <think> in it are tokens where the tokenizer has them.
  void Literal(std::string_view text);
  // What somebody wrote. No word in it is ever a control token.
  void Text(std::string_view text);
  // Ends a run: what follows is encoded apart from what came before, as some formats have it.
  void Break() { parts_.push_back({"", Kind::kBreak}); }

  // The ids; InvalidArgument names a control word that the tokenizer lacks, or says where the text
  // is not UTF-8. Text runs on over parts, and is encoded in one piece between control tokens.
  absl::StatusOr<std::vector<int32_t>> Encode(const Tokenizer& tokenizer) const;
  // All of it as text.
  std::string ToText() const;

 private:
  enum class Kind : uint8_t { kText, kWord, kControl, kBreak };
  struct Part {
    std::string text;
    Kind kind;
  };
  std::vector<Part> parts_;
};

}  // namespace qianyi
