// How likely a model finds a given text.
#pragma once

#include <cstdint>
#include <span>

#include "absl/status/statusor.h"
#include "runtime/loaded_model.h"
#include "runtime/sequence.h"

namespace qianyi {

// Natural log-probability of `tokens` as the first blank of `prompt`: each given those before
// it, over the whole vocabulary, with nothing masked; the end of the text is not counted. The
// model must have been opened with room for them: context and prompt_tokens >= prompt + tokens +
// 1, logit_rows >= tokens. InvalidArgument when they have no room, DataLoss from the weights.
// `adapter`: one of the model's, or null.
absl::StatusOr<double> LogProbability(LoadedModel& model, const Prompt& prompt,
                                      std::span<const int32_t> tokens,
                                      const Adapter* adapter = nullptr);

}  // namespace qianyi
