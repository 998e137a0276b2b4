#include "runtime/scoring.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "runtime/generation.h"
#include "runtime/sampler_math.h"
#include "runtime/scheduler.h"

namespace qianyi {

absl::StatusOr<double> LogProbability(LoadedModel& model, const Prompt& prompt,
                                      std::span<const int32_t> tokens, const Adapter* adapter) {
  if (tokens.empty()) return 0.0;
  const ModelUse& use = model.plan().models[0].use;
  const int64_t count = static_cast<int64_t>(tokens.size());
  const int64_t room = std::min(StepTokens(use), use.context_tokens);
  Generation generation(prompt, static_cast<int32_t>(count) + 1);
  const int64_t longest = static_cast<int64_t>(prompt.tokens.size()) + count + 1;
  const Blank& blank = prompt.blanks[0];
  for (const int row : {0, 1}) {
    const int64_t last = blank.position[row] + int64_t{blank.stride[row]} * count;
    if (last > model.model().spec().max_positions) {
      return absl::InvalidArgumentError(
          absl::StrFormat("prompt and text reach position %d; the model has positions up to %d",
                          last, model.model().spec().max_positions));
    }
  }
  if (longest > room || count > LogitRows(use)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("prompt and text have %d tokens; there is room for %d", longest, room));
  }
  Sequence& sequence = generation.sequence;
  for (const int32_t token : tokens.first(tokens.size() - 1)) generation.Accept(token);
  LoadedModel::Attach(adapter, &sequence);
  if (!model.Reserve(longest, &sequence)) {
    return absl::ResourceExhaustedError("the key-value cache has no room for the text");
  }
  Step step(StepTokens(use));
  Sequence* const sequences[] = {&sequence};
  const int order[] = {0};
  ScheduleStep(sequences, order, {.prompt_tokens = StepTokens(use)}, &step);
  step.logit_tokens.clear();
  for (int64_t i = step.size() - count; i < step.size(); ++i) {
    step.logit_tokens.push_back(static_cast<int32_t>(i));
  }
  const absl::Status status = model.Run(step);
  model.kv().Release(&sequence.pages);
  if (!status.ok()) return status;
  const Tensor logits = model.pass().host_logits();
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) {
    sum += LogProbabilityAt({logits.f32(i), static_cast<size_t>(logits.cols)}, tokens[i]);
  }
  return sum;
}

}  // namespace qianyi
