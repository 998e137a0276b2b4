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

namespace qianyi {

// Tables known by name: "glm-english", "glm-chinese" and "glm-chinese-not-fixed" (an early
// 10B model, where [gMASK] and <|endofpiece|> share an id). Null when there is none.
const std::vector<CommandToken>* StandardCommands(std::string_view name);

// Encode cuts the text at the command words, in the order of the table, and encodes each
// piece between alone; blank text has no ids. Of two commands with one word or one id the
// later counts. Without `specials` the text goes to the plain tokenizer as it is.
class CommandTokenizer final : public Tokenizer {
 public:
  // InvalidArgument for a table that is too long or has an empty word or an impossible id.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Create(
      std::shared_ptr<const TextTokenizer> text, std::vector<CommandToken> commands);

  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text, bool specials) const override;
  absl::StatusOr<std::string> Decode(std::span<const int32_t> ids) const override;
  std::string_view TokenBytes(int32_t id) const override;
  std::string_view NextBytes(int32_t id, bool* run_start) const override;
  int32_t vocab_size() const override { return vocab_size_; }
  int32_t CommandId(std::string_view role) const override;
  int32_t WordId(std::string_view word) const override;

 private:
  struct Piece {
    std::string_view text;
    const CommandToken* command;  // or null
  };

  CommandTokenizer(std::shared_ptr<const TextTokenizer> text, std::vector<CommandToken> commands);
  std::vector<Piece> Cut(std::string_view text) const;
  void CutAt(const CommandToken& command, std::string_view text, std::vector<Piece>* pieces) const;
  const CommandToken* FindWord(std::string_view word) const;
  const CommandToken* FindId(int32_t id) const;

  const std::shared_ptr<const TextTokenizer> text_;
  const std::vector<CommandToken> commands_;
  std::unordered_map<std::string_view, const CommandToken*> by_word_;  // views commands_
  std::unordered_map<int32_t, const CommandToken*> by_id_;
  int32_t vocab_size_ = 0;
};

}  // namespace qianyi
