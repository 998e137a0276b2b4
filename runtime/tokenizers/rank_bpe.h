// tokenizer.model of GLM-4: a token a line, base64 and its rank, as tiktoken writes them.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/tokenizers/added_tokens.h"
#include "runtime/tokenizers/byte_level_bpe.h"

namespace qianyi {

// Whether a file called tokenizer.model begins like one of these; sentencepiece's do not.
bool LooksLikeRanks(std::string_view file);

// InvalidArgument names the line: ranks are 0, 1, 2, …, no token occurs twice, and every byte is
// one. `name` is for error messages.
absl::StatusOr<std::unique_ptr<ByteLevelBpe>> ParseRanks(std::string_view file,
                                                         const std::string& name);

// The special tokens of GLM-4, which follow the ranks in this order: zai-org/GLM-4.
std::vector<AddedToken> Glm4SpecialTokens(int32_t first_id);

}  // namespace qianyi
