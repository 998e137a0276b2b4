#include "server/request_account.h"

#include <algorithm>
#include <variant>

#include "runtime/sampler.h"
#include "runtime/sink.h"

namespace qianyi {
namespace {

constexpr int64_t kLeastBytes = 64 << 20;
constexpr int64_t kPromptTokenBytes = 32;  // id, two positions, and what a sequence keeps
constexpr int64_t kEventBytes = sizeof(TokenEvent);

// What users wrote, as they wrote it.
nlohmann::json PromptJson(const TextRequest& request) {
  if (const auto* completion = std::get_if<CompletionInput>(&request.input)) {
    if (!completion->prompt_ids.empty()) return completion->prompt_ids;
    return completion->prompt;
  }
  if (const auto* task = std::get_if<TaskInput>(&request.input)) return task->fields;
  nlohmann::json messages = nlohmann::json::array();
  for (const ChatMessage& message : std::get<ChatInput>(request.input).messages) {
    messages.push_back({{"role", message.role}, {"content", message.content}});
  }
  return messages;
}

}  // namespace

std::vector<Admission::LineLimit> LinesOf(std::span<const std::unique_ptr<ServedModel>> models,
                                          int64_t tokens) {
  std::vector<Admission::LineLimit> lines;
  for (const auto& model : models) {
    // Requests about pictures wait elsewhere, with as many candidates as there are places each.
    const int64_t choices = model->picture == nullptr
                                ? model->use().batch + model->queue
                                : model->use().batch * (kMostPictureCalls + model->queue);
    const int64_t full = choices * model->use().context_tokens;
    lines.push_back({choices, model->queue, tokens > 0 ? tokens : full});
  }
  return lines;
}

int64_t MemoryOf(std::span<const std::unique_ptr<ServedModel>> models, int64_t bytes) {
  if (bytes > 0) return bytes;
  int64_t places = 0;
  for (const auto& model : models) {
    places += model->use().batch * model->use().context_tokens * (kPromptTokenBytes + kEventBytes);
  }
  return std::max(kLeastBytes, 2 * places);
}

Load LoadOf(const GenerateRequest& request, int64_t choices) {
  const int64_t prompt = static_cast<int64_t>(request.prompt.tokens.size());
  const int64_t events = Engine::MaxEvents(request);
  const int64_t logprobs = request.sampling.logprobs * static_cast<int64_t>(sizeof(TokenLogprob));
  return {.choices = 0,
          .tokens = choices * (prompt + events),
          .bytes = choices * (prompt * kPromptTokenBytes + events * (kEventBytes + logprobs))};
}

nlohmann::ordered_json LogLine(const TextRequest& request, const std::string& model_name,
                               bool prompts) {
  const Caller& caller = request.caller;
  nlohmann::ordered_json line = {{"request_id", caller.request_id}};
  if (!caller.trace.trace_id.empty()) line["trace_id"] = caller.trace.trace_id;
  if (!caller.name.empty()) line["key"] = caller.name;
  line["model"] = model_name;
  line["choices"] = request.parameters.n;
  if (prompts) line["prompt"] = PromptJson(request);
  return line;
}

}  // namespace qianyi
