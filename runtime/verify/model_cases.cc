#include "runtime/verify/model_cases.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "runtime/generation.h"
#include "runtime/scheduler.h"
#include "runtime/verify/fixture.h"

namespace qianyi {
namespace {

using Json = nlohmann::json;

// Fields that describe a case, or are replayed together with another field.
constexpr std::array<std::string_view, 20> kReplayedElsewhere = {"name",
                                                                 "adapter",
                                                                 "attention",
                                                                 "note",
                                                                 "greedy_stops",
                                                                 "logits_tensor",
                                                                 "greedy_logits_tensor",
                                                                 "context_ids",
                                                                 "prompt_ids",
                                                                 "input_ids",
                                                                 "position_ids",
                                                                 "continuation",
                                                                 "continuation_logprobs",
                                                                 "end_token_ids",
                                                                 "out_seq_length",
                                                                 "continuation_logprob_sum",
                                                                 "greedy_first_input",
                                                                 "generated_position",
                                                                 "continuation_rule",
                                                                 "greedy_min_top1_top2_margin"};

double LogSumExp(const float* logits, int64_t count) {
  const double most = *std::max_element(logits, logits + count);
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += std::exp(logits[i] - most);
  return most + std::log(sum);
}

}  // namespace

int64_t NumberOf(const Json& fields, const char* key, int64_t absent) {
  const auto found = fields.is_object() ? fields.find(key) : fields.end();
  return found == fields.end() || !found->is_number_integer() ? absent : found->get<int64_t>();
}

std::string StringOf(const Json& fields, const char* key) {
  const auto found = fields.is_object() ? fields.find(key) : fields.end();
  return found == fields.end() || !found->is_string() ? "" : found->get<std::string>();
}

ModelCase::ModelCase(const Json& fields, const std::vector<int32_t>& end_tokens,
                     const Safetensors& tensors, LoadedModel& loaded, VerifyReport& report,
                     const Adapter* adapter)
    : fields_(fields),
      end_tokens_(end_tokens),
      tensors_(tensors),
      loaded_(loaded),
      report_(report),
      adapter_(adapter),
      name_(StringOf(fields, "name")) {}

absl::Status ModelCase::ReadInputs() {
  absl::StatusOr<std::vector<int32_t>> inputs =
      ReadIds(fields_.value("input_ids", Json()), Name("input_ids"));
  if (!inputs.ok()) return inputs.status();
  input_ids_ = *std::move(inputs);
  const char* key = fields_.contains("context_ids") ? "context_ids" : "prompt_ids";
  absl::StatusOr<std::vector<int32_t>> context = ReadIds(fields_.value(key, Json()), Name(key));
  if (!context.ok()) return context.status();
  context_ = *context;
  absl::StatusOr<Prompt> prompt = loaded_.model().LayOut(*std::move(context));
  if (!prompt.ok()) return prompt.status();
  prompt_ = *std::move(prompt);
  return absl::OkStatus();
}

// Feeds input_ids whole. Positions come from the fixture here; that the model would lay them
// out alike is compared in ReplayForced.
absl::StatusOr<ModelCase::Pass> ModelCase::RunForced(const Adapter* adapter) {
  const std::vector<int64_t> positions = Flatten(fields_.value("position_ids", Json()));
  const size_t count = input_ids_.size();
  if (count == 0 || (positions.size() != count && positions.size() != 2 * count)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("cases.json: %s does not match input_ids", Name("position_ids")));
  }
  Sequence sequence;
  const int64_t sep = NumberOf(fields_, "sep", 0);
  if (sep < 0 || sep > static_cast<int64_t>(count)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("cases.json: %s is %d; it must be 0..%d, the number of input_ids",
                        Name("sep"), sep, count));
  }
  sequence.bidirectional = static_cast<int32_t>(sep);
  for (size_t i = 0; i < count; ++i) {
    sequence.Append(input_ids_[i], static_cast<int32_t>(positions[i]),
                    positions.size() == count ? 0 : static_cast<int32_t>(positions[count + i]));
  }
  const ModelSpec& spec = loaded_.model().spec();
  for (size_t i = 0; i < count; ++i) {
    for (int row : {0, 1}) {
      if (sequence.positions[row][i] < 0 || sequence.positions[row][i] > spec.max_positions ||
          sequence.tokens[i] >= spec.vocab_size) {
        return absl::InvalidArgumentError(absl::StrFormat(
            "cases.json: %s has an id or position that the model does not have", name_));
      }
    }
  }
  LoadedModel::Attach(adapter, &sequence);
  if (!loaded_.Reserve(static_cast<int64_t>(count), &sequence)) {
    return absl::ResourceExhaustedError("the case is longer than the cache made for it");
  }
  Step step(count);
  Sequence* list[] = {&sequence};
  const int order[] = {0};
  ScheduleStep(list, order, {.prompt_tokens = static_cast<int64_t>(count)}, &step);
  step.logit_tokens.resize(count);
  std::iota(step.logit_tokens.begin(), step.logit_tokens.end(), 0);
  Pass pass;
  const int stages = loaded_.model().stages();
  const absl::Status status = loaded_.Run(step, [&](int stage, qianyi::Pass& running) {
    if (stage == 0) pass.embedding = running.Fetch(running.hidden());
    if (stage > 0 && stage < stages - 1 && stage % 2 == 0) {
      const std::vector<float> rows = running.Fetch(running.hidden());
      pass.hidden.insert(pass.hidden.end(), rows.begin(), rows.end());
    }
    if (stage == stages - 1) pass.final_norm = running.Fetch(running.head_input());
  });
  loaded_.kv().Release(&sequence.pages);
  if (!status.ok()) return status;
  Append(loaded_.pass().host_logits(), &pass.logits);
  return pass;
}

void CompareTensor(const std::string& name, const std::vector<float>& actual,
                   const Safetensors& tensors, VerifyReport& report) {
  if (!report.Wants(name)) return;
  VerifyLine line{.name = name, .tolerance = kLogitTolerance, .note = {}};
  absl::StatusOr<std::vector<float>> expected = tensors.ReadFloats(name);
  if (!expected.ok() || expected->size() != actual.size()) {
    line.result = VerifyLine::Result::kFail;
    line.difference = std::numeric_limits<double>::infinity();
    line.note =
        expected.ok() ? "another number of values" : std::string(expected.status().message());
  } else {
    line.difference = LargestDifference(actual, *expected);
    line.result =
        line.difference <= line.tolerance ? VerifyLine::Result::kOk : VerifyLine::Result::kFail;
  }
  report.Add(std::move(line));
}

void CompareOriginals(const std::string& name, const Json& stated, VerifyReport& report) {
  if (!report.Wants(name)) return;
  VerifyLine line{.name = name, .tolerance = kBetweenOriginals, .note = {}};
  line.difference =
      stated.is_number() ? std::abs(stated.get<double>()) : std::numeric_limits<double>::infinity();
  line.result =
      line.difference <= line.tolerance ? VerifyLine::Result::kOk : VerifyLine::Result::kFail;
  report.Add(std::move(line));
}

void ModelCase::Compare(const std::string& field, const std::vector<float>& actual,
                        std::set<std::string>* replayed) {
  const std::string name = Name(field);
  if (tensors_.Find(name) == nullptr) return;
  replayed->insert(name);
  CompareTensor(name, actual, tensors_, report_);
}

void ModelCase::CompareIds(const std::string& field, const std::vector<int64_t>& actual,
                           const std::vector<int64_t>& expected) {
  const std::string name = Name(field);
  if (!report_.Wants(name)) return;
  size_t same = 0;
  for (size_t i = 0; i < std::min(actual.size(), expected.size()); ++i) {
    same += actual[i] == expected[i] ? 1 : 0;
  }
  VerifyLine line{.name = name, .note = {}};
  line.difference = static_cast<double>(std::max(actual.size(), expected.size()) - same);
  line.result = line.difference == 0 ? VerifyLine::Result::kOk : VerifyLine::Result::kFail;
  report_.Add(std::move(line));
}

void ModelCase::AddNumber(const std::string& field, double actual, double expected,
                          double tolerance) {
  const std::string name = Name(field);
  if (!report_.Wants(name)) return;
  VerifyLine line{.name = name, .tolerance = tolerance, .note = {}};
  line.difference = std::abs(actual - expected);
  line.result = line.difference <= tolerance ? VerifyLine::Result::kOk : VerifyLine::Result::kFail;
  report_.Add(std::move(line));
}

void ModelCase::ReplayLogprobs(const std::vector<float>& logits) {
  const int64_t vocab = loaded_.model().spec().vocab_size;
  const std::vector<int64_t> tokens = Flatten(fields_["continuation"]);
  const Json expected = fields_.value("continuation_logprobs", Json::array());
  const int64_t rows = static_cast<int64_t>(logits.size()) / vocab;
  const int64_t count = static_cast<int64_t>(tokens.size());
  double sum = 0;
  double worst = expected.size() == tokens.size() ? 0 : std::numeric_limits<double>::infinity();
  for (int64_t i = 0; i < count; ++i) {
    if (count > rows || tokens[i] < 0 || tokens[i] >= vocab) {
      worst = sum = std::numeric_limits<double>::infinity();
      break;
    }
    const float* row = logits.data() + (rows - count + i) * vocab;
    const double logprob = row[tokens[i]] - LogSumExp(row, vocab);
    sum += logprob;
    if (i < static_cast<int64_t>(expected.size()) && expected[i].is_number()) {
      worst = std::max(worst, std::abs(logprob - expected[i].get<double>()));
    }
  }
  if (fields_.contains("continuation_logprobs")) {
    AddNumber("continuation_logprobs", worst, 0, kLogitTolerance);
  }
  if (fields_.contains("continuation_logprob_sum")) {
    const Json& total = fields_["continuation_logprob_sum"];
    AddNumber("continuation_logprob_sum", sum, total.is_number() ? total.get<double>() : 1e300,
              kLogprobSumTolerance);
  }
}

absl::Status ModelCase::ReplayLogits(const std::string& tensor) {
  if (absl::Status status = ReadInputs(); !status.ok()) return status;
  absl::StatusOr<Pass> pass = RunForced(adapter_);
  if (!pass.ok()) return pass.status();
  std::set<std::string> unused;
  Compare(tensor, pass->logits, &unused);
  return absl::OkStatus();
}

absl::Status ModelCase::ReplayChange() {
  if (absl::Status status = ReadInputs(); !status.ok()) return status;
  absl::StatusOr<Pass> with = RunForced(adapter_);
  if (!with.ok()) return with.status();
  absl::StatusOr<Pass> without = RunForced(nullptr);
  if (!without.ok()) return without.status();
  const double change = LargestDifference(with->logits, without->logits);
  const Json wanted = fields_.value("max_abs_change_from_base", Json());
  AddNumber("max_abs_change_from_base", change, wanted.is_number() ? wanted.get<double>() : 1e300,
            2 * kLogitTolerance);
  return absl::OkStatus();
}

absl::Status ModelCase::ReplayForced(std::set<std::string>* replayed) {
  absl::StatusOr<Pass> pass = RunForced(adapter_);
  if (!pass.ok()) return pass.status();
  Compare("embedding_output", pass->embedding, replayed);
  Compare("hidden_states", pass->hidden, replayed);
  Compare("final_layernorm_output", pass->final_norm, replayed);
  Compare("logits", pass->logits, replayed);
  if (fields_.contains("continuation")) ReplayLogprobs(pass->logits);
  return absl::OkStatus();
}

// The inputs stand in both files, which must agree, and the model must lay them out alike.
void ModelCase::ReplayInputs(std::set<std::string>* replayed) {
  const std::vector<int64_t> positions = Flatten(fields_.value("position_ids", Json()));
  const size_t count = input_ids_.size();
  const bool two_rows = positions.size() == 2 * count;
  // Two rows are two tensors, or one.
  const bool apart = tensors_.Find(Name("block_position_ids")) != nullptr;
  const auto second =
      apart ? positions.begin() + std::min(count, positions.size()) : positions.end();
  const std::pair<const char*, std::vector<int64_t>> inputs[] = {
      {"input_ids", Wide(input_ids_)},
      {"position_ids", {positions.begin(), second}},
      {"block_position_ids", {second, positions.end()}}};
  for (const auto& [field, values] : inputs) {
    const std::string tensor = Name(field);
    if (tensors_.Find(tensor) == nullptr) continue;
    replayed->insert(tensor);
    absl::StatusOr<std::vector<int64_t>> stored = tensors_.ReadIntegers(tensor);
    CompareIds(field, values, stored.value_or(std::vector<int64_t>()));
  }
  // Several blanks end where the model ends them: ReplayBlanks compares what they fed.
  if (fields_.contains("blanks") || count < prompt_.tokens.size()) return;
  Generation layout(prompt_, static_cast<int32_t>(count) + 1);
  for (size_t i = layout.sequence.tokens.size(); i < count; ++i) layout.Accept(input_ids_[i]);
  std::vector<int64_t> laid;
  for (int row = 0; row < (two_rows ? 2 : 1); ++row) {
    const std::vector<int32_t>& all = layout.sequence.positions[row];
    laid.insert(laid.end(), all.begin(), all.begin() + std::min(count, all.size()));
  }
  CompareIds("layout", laid, positions);
}

absl::Status ModelCase::Replay(std::set<std::string>* replayed) {
  if (name_.empty()) return absl::InvalidArgumentError("cases.json: a case has no name");
  // Every step of such a case is a prompt of its own.
  if (fields_.contains("steps")) return ReplayRefills();
  absl::Status status = ReadInputs();
  if (status.ok()) {
    ReplayInputs(replayed);
    status = ReplayForced(replayed);
  }
  for (auto field = fields_.begin(); field != fields_.end() && status.ok(); ++field) {
    const std::string& key = field.key();
    if (key == "sep") {
      CompareIds(key, {prompt_.bidirectional}, Flatten(*field));
    } else if (key == "context_length") {
      // GLM-130B counts the start token in.
      const int more = loaded_.model().spec().family == "glm-130b" ? 1 : 0;
      CompareIds(key, {prompt_.bidirectional + more}, Flatten(*field));
    } else if (key == "mask_position" || key == "mask_positions") {
      std::vector<int64_t> masks;
      for (const Blank& blank : prompt_.blanks) masks.push_back(blank.mask);
      CompareIds(key, masks, Flatten(*field));
    } else if (key == "use_gmask") {
      const bool counts_on = prompt_.blanks[0].stride[0] == 1;
      CompareIds(key, {counts_on}, {*field == true});
    } else if (key == "blanks") {
      status = ReplayBlanks();
    } else if (key == "greedy_tokens") {
      status = ReplayGreedy(replayed);
    } else if (key == "max_abs_change_from_base") {
      status = ReplayChange();
    } else if (absl::StartsWith(key, "max_abs_diff")) {
      CompareOriginals(Name(key), *field, report_);
    } else if (std::find(kReplayedElsewhere.begin(), kReplayedElsewhere.end(), key) ==
                   kReplayedElsewhere.end() &&
               report_.Wants(Name(key))) {
      VerifyLine line{.name = Name(key), .note = {}};
      line.result = VerifyLine::Result::kUnknown;
      report_.Add(std::move(line));
    }
  }
  return status;
}

}  // namespace qianyi
