// The half of ModelCase that generates: greedy continuations, and blanks one after the other.
#include <algorithm>
#include <functional>
#include <limits>
#include <utility>

#include "absl/strings/str_format.h"
#include "runtime/engine.h"
#include "runtime/generation.h"
#include "runtime/scheduler.h"
#include "runtime/verify/fixture.h"
#include "runtime/verify/model_cases.h"

namespace qianyi {

namespace {
using Json = nlohmann::json;
}

absl::StatusOr<ModelCase::Greedy> ModelCase::RunGreedy(int32_t max_tokens,
                                                       const std::vector<int32_t>& end_tokens) {
  const GenerateRequest request{
      .prompt = prompt_, .sampling = {}, .max_tokens = max_tokens, .end_tokens = {}};
  absl::Status status =
      Engine::Check(request, loaded_.model().spec(), loaded_.plan().models[0].use.context_tokens);
  if (!status.ok()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("cases.json: case %s: %s", name_, status.message()));
  }
  Generation generation(prompt_, max_tokens);
  LoadedModel::Attach(adapter_, &generation.sequence);
  if (!loaded_.Reserve(generation.max_cached(), &generation.sequence)) {
    return absl::ResourceExhaustedError("the case is longer than the cache made for it");
  }
  Greedy out;
  out.blanks.resize(prompt_.blanks.size());
  Step step(generation.max_cached());
  Sequence* list[] = {&generation.sequence};
  const int order[] = {0};
  while (!generation.done() && status.ok()) {
    if (out.contexts.size() == static_cast<size_t>(generation.blank())) {
      const Sequence& now = generation.sequence;
      out.contexts.emplace_back(now.tokens.begin(), now.tokens.begin() + now.bidirectional);
    }
    ScheduleStep(list, order, {.prompt_tokens = generation.max_cached()}, &step);
    status = loaded_.Run(step);
    const Tensor row = loaded_.pass().host_logits();
    Append(row, &out.logits);
    const int32_t token =
        static_cast<int32_t>(std::max_element(row.f32(), row.f32() + row.cols) - row.f32());
    out.ended.resize(generation.blank() + 1, -1);
    if (std::find(end_tokens.begin(), end_tokens.end(), token) != end_tokens.end()) {
      out.ended[generation.blank()] = token;
      generation.EndBlank();
      continue;
    }
    out.blanks[generation.blank()].push_back(token);
    if (generation.Accept(token)) generation.EndBlank();
  }
  loaded_.kv().Release(&generation.sequence.pages);
  if (!status.ok()) return status;
  out.fed = std::move(generation.sequence);
  return out;
}

absl::Status ModelCase::ReplayGreedy(std::set<std::string>* replayed) {
  absl::StatusOr<std::vector<int32_t>> expected =
      ReadIds(fields_["greedy_tokens"], Name("greedy_tokens"));
  if (!expected.ok()) return expected.status();
  absl::StatusOr<Greedy> run =
      RunGreedy(std::max<int32_t>(1, static_cast<int32_t>(expected->size())), {});
  if (!run.ok()) return run.status();
  CompareIds("greedy_tokens", Wide(run->blanks[0]), Wide(*expected));
  Compare("greedy_logits", run->logits, replayed);
  if (fields_.contains("greedy_first_input")) {
    CompareIds("greedy_first_input", {run->fed.tokens[prompt_.tokens.size()]},
               Flatten(fields_["greedy_first_input"]));
  }
  ReplayMargin(std::move(run->logits));
  return absl::OkStatus();
}

void ModelCase::ReplayMargin(std::vector<float> logits) {
  if (!fields_.contains("greedy_min_top1_top2_margin")) return;
  const int64_t vocab = loaded_.model().spec().vocab_size;
  double margin = std::numeric_limits<double>::infinity();
  for (size_t at = 0; at < logits.size(); at += vocab) {
    std::nth_element(logits.begin() + at, logits.begin() + at + 1, logits.begin() + at + vocab,
                     std::greater<>());
    margin = std::min(margin, double{logits[at]} - logits[at + 1]);
  }
  const Json& wanted = fields_["greedy_min_top1_top2_margin"];
  AddNumber("greedy_min_top1_top2_margin", margin,
            wanted.is_number() ? wanted.get<double>() : 1e300, 2 * kLogitTolerance);
}

absl::StatusOr<ModelCase::Greedy> ModelCase::RunBlanks(const char* length_field) {
  std::vector<int32_t> ends = end_tokens_;
  if (fields_.contains("end_token_ids")) {
    absl::StatusOr<std::vector<int32_t>> own =
        ReadIds(fields_["end_token_ids"], Name("end_token_ids"));
    if (!own.ok()) return own.status();
    ends = *std::move(own);
  }
  const int64_t length = NumberOf(fields_, length_field, 1);
  if (length < 1 || length > loaded_.model().spec().max_positions) {
    return absl::InvalidArgumentError(
        absl::StrFormat("cases.json: %s is %d", Name(length_field), length));
  }
  return RunGreedy(static_cast<int32_t>(length), ends);
}

absl::Status ModelCase::ReplayBlanks() {
  absl::StatusOr<Greedy> run = RunBlanks("out_seq_length");
  if (!run.ok()) return run.status();
  const Json& expected = fields_["blanks"];
  CompareIds("blanks", {static_cast<int64_t>(run->blanks.size())},
             {static_cast<int64_t>(expected.size())});
  for (size_t i = 0; i < std::min(expected.size(), run->blanks.size()); ++i) {
    const std::string at = absl::StrFormat("blanks[%d].", i);
    const std::vector<int64_t> blank = Wide(run->blanks[i]);
    CompareIds(at + "tokens", blank, Flatten(FieldOf(expected[i], "tokens")));
    if (expected[i].contains("tokens_with_sop")) {
      std::vector<int64_t> with_start = blank;
      with_start.insert(with_start.begin(), prompt_.blanks[i].start_token);
      CompareIds(at + "tokens_with_sop", with_start, Flatten(expected[i]["tokens_with_sop"]));
    }
    CompareIds(at + "mask_position", {prompt_.blanks[i].mask},
               Flatten(FieldOf(expected[i], "mask_position")));
    CompareIds(at + "stopped_by", {run->ended[i] >= 0},
               {StringOf(expected[i], "stopped_by") == "end_token"});
  }
  CompareIds("fed_ids", Wide(run->fed.tokens), Wide(input_ids_));
  ReplayMargin(std::move(run->logits));
  return absl::OkStatus();
}

absl::Status ModelCase::ReplayRefills() {
  const Json& steps = fields_["steps"];
  const Json first = steps.is_array() && !steps.empty() ? steps[0] : Json();
  absl::StatusOr<std::vector<int32_t>> context =
      ReadIds(FieldOf(first, "sequence"), Name("steps[0].sequence"));
  if (!context.ok()) return context.status();
  absl::StatusOr<Prompt> prompt = loaded_.model().LayOut(*std::move(context));
  if (!prompt.ok()) return prompt.status();
  prompt_ = *std::move(prompt);
  absl::StatusOr<Greedy> run = RunBlanks("max_new_tokens");
  if (!run.ok()) return run.status();
  CompareIds("steps", {static_cast<int64_t>(run->blanks.size())},
             {static_cast<int64_t>(steps.size())});
  for (size_t i = 0; i < std::min(steps.size(), run->blanks.size()); ++i) {
    const std::string at = absl::StrFormat("steps[%d].", i);
    const std::vector<int32_t>& now = run->contexts[i];
    const auto grown = static_cast<int64_t>(now.size()) - prompt_.bidirectional;
    std::vector<int64_t> generated = Wide(run->blanks[i]);
    CompareIds(at + "sequence", Wide(now), Flatten(FieldOf(steps[i], "sequence")));
    CompareIds(at + "mask_position", {prompt_.blanks[i].mask + grown},
               Flatten(FieldOf(steps[i], "mask_position")));
    CompareIds(at + "blank", generated, Flatten(FieldOf(steps[i], "blank")));
    if (run->ended[i] >= 0) generated.push_back(run->ended[i]);
    CompareIds(at + "generated", generated, Flatten(FieldOf(steps[i], "generated")));
  }
  std::vector<int32_t> filled = run->fed.tokens;
  if (!prompt_.refill) {  // one mask: nothing was encoded again with its blank in place
    filled = run->contexts[0];
    const auto after = filled.erase(filled.begin() + prompt_.blanks[0].mask);
    filled.insert(after, run->blanks[0].begin(), run->blanks[0].end());
  }
  CompareIds("final_sequence", Wide(filled), Flatten(FieldOf(fields_, "final_sequence")));
  return absl::OkStatus();
}

}  // namespace qianyi
