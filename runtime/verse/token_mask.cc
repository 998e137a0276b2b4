#include "runtime/verse/token_mask.h"

#include "absl/strings/str_format.h"
#include "runtime/verse/verse_text.h"

namespace qianyi {

absl::Status CheckEndTokens(const VerseTokens& tokens, std::span<const int32_t> end_tokens) {
  if (end_tokens.empty()) {
    return absl::InvalidArgumentError("verse needs an end token to end with; there is none");
  }
  for (const int32_t end : end_tokens) {
    if (end < 0 || !tokens.Text(end).empty()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("stop token %d %s; verse ends where its form does, with a control token",
                          end, end < 0 ? "is no token" : "is part of verse"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckMark(const VerseTokens& tokens, char32_t mark) {
  if (tokens.HasMark(mark)) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrFormat("the model's vocabulary has no token for %s", Utf8(mark)));
}

}  // namespace qianyi
