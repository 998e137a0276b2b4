// Probabilities of tokens in the shapes of OpenAI's API.
#pragma once

#include <span>

#include "nlohmann/json.hpp"
#include "server/token_report.h"

namespace qianyi {

// {"tokens", "token_logprobs", "top_logprobs", "text_offset"}: lists, offsets in characters of the
// text. Where no alternatives were asked for, top_logprobs is null.
nlohmann::json CompletionLogprobs(std::span<const TokenReport> tokens);
// {"content": [{"token", "logprob", "bytes", "top_logprobs"}], "refusal": null}
nlohmann::json ChatLogprobs(std::span<const TokenReport> tokens);

}  // namespace qianyi
