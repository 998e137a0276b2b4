#include "runtime/model.h"

#include "absl/strings/str_format.h"

namespace qianyi {

absl::Status Model::CheckIds(const std::vector<int32_t>& ids) const {
  if (ids.empty())
    return absl::InvalidArgumentError("the prompt is empty; give at least one token");
  if (static_cast<int64_t>(ids.size()) > spec_.max_positions) {
    return absl::InvalidArgumentError(
        absl::StrFormat("the prompt has %d tokens; the model takes at most %d; shorten it",
                        ids.size(), spec_.max_positions));
  }
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= spec_.vocab_size) {
      return absl::InvalidArgumentError(
          absl::StrFormat("prompt token %d is %d; the model's vocabulary is 0..%d", i, ids[i],
                          spec_.vocab_size - 1));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> Model::EncodeParts(const Tokenizer& tokenizer,
                                                        std::span<const PromptPart> text) {
  std::vector<int32_t> all;
  for (const PromptPart& part : text) {
    absl::StatusOr<std::vector<int32_t>> ids = tokenizer.Encode(part.text, part.commands);
    if (!ids.ok()) return ids.status();
    all.insert(all.end(), ids->begin(), ids->end());
  }
  return all;
}

}  // namespace qianyi
