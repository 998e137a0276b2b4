// Command words ("[MASK]", "<|endoftext|>") around a tokenizer of plain text, as the GLM
// models have them: src/data_utils/tokenization.py of THUDM/GLM.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/tokenizers/text_tokenizer.h"
#include "runtime/tokenizers/tokenizer.h"
#include "runtime/tokenizers/word_tokenizer.h"

namespace qianyi {

// Tables known by name: "glm-english", "glm-chinese" and "glm-chinese-not-fixed" (an early
// 10B model, where [gMASK] and <|endofpiece|> share an id). Null when there is none.
const std::vector<CommandToken>* StandardCommands(std::string_view name);

// Encode cuts the text at the command words, in the order of the table, and encodes each
// piece between alone; blank text has no ids. Of two commands with one word or one id the
// later counts.
class CommandTokenizer final : public WordTokenizer {
 public:
  // InvalidArgument for a table that is too long or has an empty word or an impossible id.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Create(
      std::shared_ptr<const TextTokenizer> text, std::vector<CommandToken> commands);

  int32_t CommandId(std::string_view role) const override;

 private:
  struct Piece {
    std::string_view text;
    const CommandToken* command;  // or null
  };

  CommandTokenizer(std::shared_ptr<const TextTokenizer> text, std::vector<CommandToken> commands);
  absl::Status EncodeWithWords(std::string_view text, std::vector<int32_t>* ids) const override;
  std::vector<Piece> Cut(std::string_view text) const;
  void CutAt(const CommandToken& command, std::string_view text, std::vector<Piece>* pieces) const;
  const CommandToken* FindWord(std::string_view word) const;

  const std::vector<CommandToken> commands_;
  std::unordered_map<std::string_view, const CommandToken*> by_word_;  // views commands_
};

}  // namespace qianyi
