#include "server/batch_request.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/error.h"

namespace qianyi {
namespace {

absl::Status At(const absl::Status& status, const std::string& where) {
  return WithParam(absl::Status(status.code(), absl::StrCat(where, ": ", status.message())), where);
}

absl::Status CheckEmbed(const EmbedRequest& embed, const ServedModel& model) {
  const int64_t dimensions = model.engine->model().spec().hidden_size;
  const int64_t inputs = static_cast<int64_t>(embed.inputs.size());
  if (inputs < 1 || inputs > kMaxEmbeddingInputs) {
    return BadParam("input", absl::StrFormat("input has %d entries; there must be 1..%d", inputs,
                                             kMaxEmbeddingInputs));
  }
  if (inputs * dimensions > kMaxEmbeddingNumbers) {
    return BadParam("input",
                    absl::StrFormat("input has %d entries, whose vectors have %d numbers "
                                    "each; an answer has room for %d of them; send the "
                                    "others by themselves",
                                    inputs, dimensions, kMaxEmbeddingNumbers / dimensions));
  }
  if (embed.dimensions == 0 || embed.dimensions == dimensions) return absl::OkStatus();
  return BadParam("dimensions", absl::StrFormat("dimensions is %d; vectors of model %s have %d, "
                                                "and are not cut; remove it",
                                                embed.dimensions, model.name, dimensions));
}

absl::StatusOr<Prompt> EmbedPrompt(const std::variant<std::string, std::vector<int32_t>>& input,
                                   const ServedModel& model) {
  const Model& glm = model.engine->model();
  if (const auto* ids = std::get_if<std::vector<int32_t>>(&input)) return glm.LayOut(*ids);
  const PromptPart part{std::get<std::string>(input), /*commands=*/false};
  if (part.text.empty()) return absl::InvalidArgumentError("the text is empty; write something");
  auto ids = glm.Encode(*model.tokenizer, {&part, 1});
  if (!ids.ok()) return ids.status();
  return glm.LayOut(*std::move(ids));
}

absl::StatusOr<std::vector<BatchJob>> PrepareEmbed(const EmbedRequest& embed,
                                                   const ServedModel& model) {
  if (absl::Status status = CheckEmbed(embed, model); !status.ok()) return status;
  std::vector<BatchJob> jobs;
  for (size_t i = 0; i < embed.inputs.size(); ++i) {
    const std::string where = absl::StrFormat("input[%d]", i);
    absl::StatusOr<Prompt> prompt = EmbedPrompt(embed.inputs[i], model);
    if (!prompt.ok()) return At(prompt.status(), where);
    prompt->blanks.resize(1);  // nothing is written
    BatchJob job;
    job.request.prompt = *std::move(prompt);
    job.request.max_tokens = 1;
    absl::Status status =
        Engine::Check(job.request, model.engine->model().spec(), model.use().context_tokens);
    if (!status.ok()) return WithCode(At(status, where), "context_length_exceeded");
    jobs.push_back(std::move(job));
  }
  return jobs;
}

absl::StatusOr<Prompt> ScorePrompt(const std::string& text, const ServedModel& model) {
  const Model& glm = model.engine->model();
  const PromptPart part{text, /*commands=*/true};
  auto ids = glm.Encode(*model.tokenizer, {&part, 1});
  if (!ids.ok()) return WithParam(ids.status(), "prompt");
  absl::StatusOr<Prompt> prompt = glm.LayOut(*std::move(ids));
  if (!prompt.ok()) return WithParam(prompt.status(), "prompt");
  if (prompt->blanks.size() == 1) return prompt;
  return BadParam("prompt", absl::StrFormat("prompt has %d blanks; a text is scored in one",
                                            prompt->blanks.size()));
}

absl::StatusOr<std::vector<BatchJob>> PrepareScore(const ScoreRequest& score,
                                                   const ServedModel& model) {
  const int64_t count = static_cast<int64_t>(score.continuations.size());
  if (count < 1 || count > kMaxContinuations) {
    return BadParam("continuations", absl::StrFormat("there are %d continuations; there must be "
                                                     "1..%d",
                                                     count, kMaxContinuations));
  }
  const absl::StatusOr<Prompt> prompt = ScorePrompt(score.prompt, model);
  if (!prompt.ok()) return prompt.status();
  std::vector<BatchJob> jobs;
  for (size_t i = 0; i < score.continuations.size(); ++i) {
    const std::string where = absl::StrFormat("continuations[%d]", i);
    auto given = model.tokenizer->Encode(score.continuations[i], /*specials=*/false);
    if (!given.ok()) return At(given.status(), where);
    if (given->empty()) return BadParam(where, where + " is empty; remove it");
    BatchJob job;
    job.request.prompt = *prompt;
    job.request.max_tokens = static_cast<int32_t>(given->size());
    job.given = *std::move(given);
    absl::Status status =
        Engine::Check(job.request, model.engine->model().spec(), model.use().context_tokens);
    if (!status.ok()) return WithCode(At(status, where), "context_length_exceeded");
    jobs.push_back(std::move(job));
  }
  return jobs;
}

}  // namespace

size_t CountOf(const BatchRequest& request) {
  const auto* embed = std::get_if<EmbedRequest>(&request.input);
  return embed != nullptr ? embed->inputs.size()
                          : std::get<ScoreRequest>(request.input).continuations.size();
}

absl::StatusOr<std::vector<BatchJob>> PrepareBatch(const BatchRequest& request,
                                                   const ServedModel& model) {
  if (const auto* embed = std::get_if<EmbedRequest>(&request.input)) {
    return PrepareEmbed(*embed, model);
  }
  return PrepareScore(std::get<ScoreRequest>(request.input), model);
}

Usage UsageOf(const BatchRequest& request, const std::vector<BatchJob>& jobs) {
  Usage usage;
  const bool one_prompt = std::holds_alternative<ScoreRequest>(request.input);
  for (const BatchJob& job : jobs) {
    const int64_t prompt = static_cast<int64_t>(job.request.prompt.tokens.size());
    usage.prompt_tokens = one_prompt ? prompt : usage.prompt_tokens + prompt;
    usage.completion_tokens += static_cast<int64_t>(job.given.size());
  }
  return usage;
}

}  // namespace qianyi
