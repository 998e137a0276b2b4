// Requests that write no text: prompts to embed, texts to score.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/engine.h"
#include "server/access/key_ring.h"
#include "server/served_model.h"
#include "server/text_request.h"

namespace qianyi {

inline constexpr int64_t kMaxEmbeddingInputs = 2048;
inline constexpr int64_t kMaxEmbeddingNumbers = 4 << 20;  // of all vectors of an answer
inline constexpr int64_t kMaxContinuations = 128;

struct EmbedRequest {
  std::vector<std::variant<std::string, std::vector<int32_t>>> inputs;  // text or token ids
  int64_t dimensions = 0;  // what the client says they have; 0 = it does not
};

struct ScoreRequest {
  std::string prompt;  // command words act, as in a completion
  std::vector<std::string> continuations;
};

struct BatchRequest {
  std::string model;  // may be empty when one model is served
  std::variant<EmbedRequest, ScoreRequest> input;
  Caller caller = {};
  int64_t body_bytes = 0;  // as it was received
};

// One piece of work for an engine.
struct BatchJob {
  GenerateRequest request;
  std::vector<int32_t> given;  // to be scored; empty: the prompt is embedded
};

// What became of it.
struct BatchResult {
  std::vector<float> vector;    // of length 1
  std::vector<int32_t> tokens;  // those that were given
  std::vector<float> logprobs;  // of each
};

// Of the pieces of work, before any is prepared.
size_t CountOf(const BatchRequest& request);
// Errors name the field at fault, and which of its entries.
absl::StatusOr<std::vector<BatchJob>> PrepareBatch(const BatchRequest& request,
                                                   const ServedModel& model);
// The tokens of all prompts, one that is scored several times once, and of what is scored.
Usage UsageOf(const BatchRequest& request, const std::vector<BatchJob>& jobs);

}  // namespace qianyi
