// CogView's one vocabulary of image codes, text pieces and command words, and its query
// language: data_utils/unified_tokenizer.py of THUDM/CogView.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json_fwd.hpp"
#include "runtime/tokenizers/text_tokenizer.h"

namespace qianyi {

// Immutable, thread-safe. Ids 0..N-1 are image codes, N..N+T-1 text pieces; commands follow.
class CogViewTokens {
 public:
  static constexpr int32_t kGenerate = -1;  // in a query: a place to be filled
  static constexpr int32_t kMaxQueryTokens = 1 << 16;

  // `config` has num_image_tokens, num_text_tokens and command_tokens {word: id}, as in the
  // reference's config.json. InvalidArgument names the field that is missing or wrong.
  static absl::StatusOr<CogViewTokens> Create(std::shared_ptr<const TextTokenizer> text,
                                              const nlohmann::json& config);

  // Plain text: command words in it are ordinary text.
  absl::StatusOr<std::vector<int32_t>> EncodeText(std::string_view text) const;

  // Codes of the picture at a path that a query names ("[Image]path"). Leave it empty for
  // queries from outside, which must not read files: such words are then InvalidArgument.
  using ReadPicture = std::function<absl::StatusOr<std::vector<int32_t>>(const std::string& path)>;

  // Words between single spaces: a command word is its id, "[MASK]" one kGenerate, "[MASK]*n"
  // n of them, "[Image]path" a picture's codes ("[Image9]path" the first 9, then kGenerate);
  // runs of other words are text.
  absl::StatusOr<std::vector<int32_t>> EncodeQuery(std::string_view query,
                                                   const ReadPicture& read_picture = {}) const;

  // 64, 256, 1024 or 4096 codes between their size word, [BOI`index`] and [EOI`index`].
  absl::StatusOr<std::vector<int32_t>> WrapCodes(std::span<const int32_t> codes, int index) const;

  struct Decoded {
    std::vector<std::string> text;             // runs of text and command words, in order
    std::vector<std::vector<int32_t>> images;  // runs of codes, cut at [EOI*] and the end only
  };
  absl::StatusOr<Decoded> Decode(std::span<const int32_t> ids) const;

  int32_t CommandId(std::string_view word) const;  // -1 when there is no such word

 private:
  CogViewTokens() = default;
  absl::Status AppendWord(std::string_view word, const ReadPicture& read_picture,
                          std::vector<int32_t>* ids) const;
  absl::Status AppendPicture(std::string_view word, const ReadPicture& read_picture,
                             std::vector<int32_t>* ids) const;
  bool IsQueryWord(std::string_view word) const;
  std::string DecodeText(std::span<const int32_t> pieces) const;

  std::shared_ptr<const TextTokenizer> text_;
  int32_t image_tokens_ = 0;
  int32_t text_tokens_ = 0;
  std::unordered_map<std::string, int32_t> command_ids_;
  std::unordered_map<int32_t, std::string> command_words_;
};

}  // namespace qianyi
