#include "runtime/verify/cogview_cases.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "runtime/generation.h"
#include "runtime/pictures/picture_query.h"
#include "runtime/scheduler.h"
#include "runtime/storage/file_util.h"

namespace qianyi {
namespace {

using Json = nlohmann::json;
constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr float kMasked = -1e30f;  // as the fixture writes -infinity

}  // namespace

absl::StatusOr<CogViewCases> CogViewCases::Open(const std::string& folder,
                                                const PictureConfig& config, VerifyReport& report) {
  absl::StatusOr<Json> fields = ReadJson(JoinPath(folder, "cases.json"));
  if (!fields.ok()) return fields.status();
  absl::StatusOr<Safetensors> tensors = Safetensors::Open(JoinPath(folder, "cases.safetensors"));
  if (!tensors.ok()) return tensors.status();
  CogViewCases cases(config, *std::move(tensors), report);
  cases.cases_ = *std::move(fields);
  return cases;
}

std::vector<std::string> CogViewCases::Names() const {
  std::vector<std::string> names;
  for (const SafetensorsEntry& entry : tensors_.entries()) names.push_back(entry.name);
  return names;
}

const Json& CogViewCases::Fields(const std::string& name) const {
  static const Json none = Json::object();
  const auto found = cases_.find(name);
  return found == cases_.end() ? none : *found;
}

bool CogViewCases::HasCase(const std::string& name) const {
  for (const SafetensorsEntry& entry : tensors_.entries()) {
    if (absl::StartsWith(entry.name, name + ".") && report_->Wants(entry.name)) return true;
  }
  for (const auto& [key, value] : Fields(name).items()) {
    if (report_->Wants(absl::StrCat(name, ".", key))) return true;
  }
  return false;
}

int64_t CogViewCases::Length(const std::string& tensor) const {
  const SafetensorsEntry* entry = tensors_.Find(tensor);
  return entry == nullptr || entry->shape.empty() ? 0 : entry->shape.back();
}

absl::StatusOr<std::vector<int32_t>> CogViewCases::Ids(const std::string& tensor) const {
  absl::StatusOr<std::vector<int64_t>> values = tensors_.ReadIntegers(tensor);
  if (!values.ok()) return values.status();
  for (const int64_t value : *values) {
    if (value < -1 || value >= 1 << 24) {
      return absl::InvalidArgumentError(absl::StrFormat("%s has the id %d", tensor, value));
    }
  }
  return std::vector<int32_t>(values->begin(), values->end());
}

absl::StatusOr<std::vector<float>> CogViewCases::Floats(const std::string& tensor) const {
  return tensors_.ReadFloats(tensor);
}

absl::StatusOr<std::vector<CogViewInput>> CogViewCases::Inputs(const std::string& name,
                                                               const char* tensor) {
  const std::string source = absl::StrCat(name, ".", tensor);
  absl::StatusOr<std::vector<int32_t>> ids = Ids(source);
  if (!ids.ok()) return ids.status();
  const std::string at = name + ".position_ids";
  absl::StatusOr<std::vector<int32_t>> positions = std::vector<int32_t>();
  if (Has(at)) positions = Ids(at);
  if (!positions.ok()) return positions.status();
  const size_t length = static_cast<size_t>(Length(source));
  if (!positions->empty() && positions->size() != ids->size()) {
    return absl::InvalidArgumentError(absl::StrCat(at, " does not match ", source));
  }
  std::vector<CogViewInput> inputs(length == 0 ? 0 : ids->size() / length);
  for (size_t i = 0; i < inputs.size(); ++i) {
    CogViewInput& input = inputs[i];
    input.ids.assign(ids->begin() + i * length, ids->begin() + (i + 1) * length);
    input.positions.resize(length);
    std::iota(input.positions.begin(), input.positions.end(), 0);
    if (!positions->empty()) {
      input.positions.assign(positions->begin() + i * length,
                             positions->begin() + (i + 1) * length);
    }
    for (size_t k = 0; k < length; ++k) {
      if (input.ids[k] < 0 || input.ids[k] >= config_.vocab_size || input.positions[k] < 0 ||
          input.positions[k] >= config_.positions) {
        return absl::InvalidArgumentError(
            absl::StrCat(source, " has an id or a position that the model does not have"));
      }
    }
  }
  Took(source);
  Took(at);
  return inputs;
}

absl::StatusOr<CogViewPass> CogViewCases::RunOn(LoadedModel& loaded,
                                                const std::vector<CogViewInput>& inputs,
                                                const SparseStep* sparse) {
  LoadedModel* const before = std::exchange(loaded_, &loaded);
  std::vector<SparseStep> steps;
  if (sparse != nullptr) steps.push_back(*sparse);
  absl::StatusOr<std::vector<CogViewPass>> passes = RunInChunks(inputs, {INT64_MAX}, steps);
  loaded_ = before;
  if (!passes.ok()) return passes.status();
  return std::move(passes->front());
}

absl::StatusOr<std::vector<CogViewPass>> CogViewCases::RunInChunks(
    const std::vector<CogViewInput>& inputs, const std::vector<int64_t>& ends,
    const std::vector<SparseStep>& sparse) {
  std::vector<Sequence> sequences(inputs.size());
  absl::Status status;
  for (size_t s = 0; s < inputs.size() && status.ok(); ++s) {
    sequences[s].bidirectional = inputs[s].sep;
    if (!loaded_->Reserve(static_cast<int64_t>(inputs[s].ids.size()), &sequences[s])) {
      status = absl::ResourceExhaustedError("the case is longer than the cache made for it");
    }
  }
  std::vector<CogViewPass> passes;
  Step step(StepTokens(loaded_->plan().models[0].use));
  const int stages = loaded_->model().stages();
  int64_t begin = 0;
  for (size_t c = 0; c < ends.size() && status.ok(); begin = ends[c++]) {
    std::vector<Sequence*> list;
    std::vector<int> order;
    int64_t count = 0;
    for (size_t s = 0; s < inputs.size(); ++s) {
      const int64_t end = std::min<int64_t>(ends[c], inputs[s].ids.size());
      for (int64_t i = begin; i < end; ++i) {
        sequences[s].Append(inputs[s].ids[i], inputs[s].positions[i], 0);
      }
      count += end - begin;
      list.push_back(&sequences[s]);
      order.push_back(static_cast<int>(s));
    }
    ScheduleStep(list, order, {.prompt_tokens = count}, &step);
    step.sparse = sparse.empty() ? nullptr : &sparse[c];
    step.logit_tokens.clear();
    int64_t first = 0;
    for (const CogViewInput& input : inputs) {
      const int64_t length = std::min<int64_t>(ends[c], input.ids.size()) - begin;
      const int64_t last = input.last_logit < 0 ? length : input.last_logit;
      for (int64_t i = input.first_logit; i < last; ++i) {
        step.logit_tokens.push_back(static_cast<int32_t>(first + i));
      }
      first += length;
    }
    const ModelUse& room = loaded_->plan().models[0].use;
    if (count > StepTokens(room) ||
        static_cast<int64_t>(step.logit_tokens.size()) > LogitRows(room)) {
      status = absl::ResourceExhaustedError("a batch of the case has too many tokens");
      break;
    }
    CogViewPass& pass = passes.emplace_back();
    Pass& running = loaded_->pass();
    running.SetWatcher([&](std::string_view name, Tensor value) {
      const auto [at, is_new] = pass.first_layer.try_emplace(std::string(name));
      if (is_new) at->second = running.Fetch(value);
    });
    status = loaded_->Run(step, [&](int stage, Pass&) {
      if (stage == stages - 1)
        pass.final_norm = running.Fetch(running.head_input());
      else if (stage % 2 == 0)
        pass.hidden.push_back(running.Fetch(running.hidden()));
    });
    loaded_->pass().SetWatcher({});
    Append(loaded_->pass().host_logits(), &pass.logits);
  }
  for (Sequence& sequence : sequences) loaded_->kv().Release(&sequence.pages);
  if (!status.ok()) return status;
  return passes;
}

absl::StatusOr<CogViewFilled> CogViewCases::Fill(const std::vector<int32_t>& query) {
  absl::StatusOr<Prompt> prompt = LayOutQuery(query, config_);
  if (!prompt.ok()) return prompt.status();
  std::vector<TokenRange> ranges = QueryRanges(query, config_);
  const int32_t places = static_cast<int32_t>(ranges.size());
  const std::unique_ptr<Constraint> constraint = MakeQueryConstraint(std::move(ranges));
  Generation generation(*std::move(prompt), places);
  if (!loaded_->Reserve(generation.max_cached(), &generation.sequence)) {
    return absl::ResourceExhaustedError("the case is longer than the cache made for it");
  }
  CogViewFilled filled;
  filled.output = query;
  Step step(generation.max_cached());
  Sequence* list[] = {&generation.sequence};
  const int order[] = {0};
  size_t next = 0;
  absl::Status status;
  for (bool full = false; !full && status.ok();) {
    ScheduleStep(list, order, {.prompt_tokens = generation.max_cached()}, &step);
    status = loaded_->Run(step);
    const Tensor row = loaded_->pass().host_logits();
    const std::span<float> logits(row.f32(), static_cast<size_t>(row.cols));
    constraint->Mask(logits);
    const auto best = std::max_element(logits.begin(), logits.end());
    float second = -std::numeric_limits<float>::infinity();
    for (auto it = logits.begin(); it != logits.end(); ++it) {
      if (it != best) second = std::max(second, *it);
    }
    filled.margins.push_back(*best - second);
    for (const float logit : logits) filled.logits.push_back(std::isinf(logit) ? kMasked : logit);
    const int32_t token = static_cast<int32_t>(best - logits.begin());
    constraint->Accept(token);
    while (filled.output[next] >= 0) ++next;
    filled.output[next] = token;
    full = generation.Accept(token);
  }
  filled.positions = generation.sequence.positions[0];
  loaded_->kv().Release(&generation.sequence.pages);
  if (!status.ok()) return status;
  return filled;
}

void CogViewCases::Add(const std::string& name, double difference, double tolerance,
                       std::string note) {
  Took(name);
  if (!report_->Wants(name)) return;
  const auto result = difference <= tolerance ? VerifyLine::Result::kOk : VerifyLine::Result::kFail;
  report_->Add({.name = name,
                .difference = difference,
                .tolerance = tolerance,
                .result = result,
                .note = std::move(note)});
}

void CogViewCases::Compare(const std::string& tensor, const std::vector<float>& actual,
                           double tolerance) {
  absl::StatusOr<std::vector<float>> expected = tensors_.ReadFloats(tensor);
  if (!expected.ok()) return Add(tensor, kInfinity, tolerance, "no such tensor of floats");
  if (expected->size() != actual.size()) {
    return Add(tensor, kInfinity, tolerance, "another number of values");
  }
  Add(tensor, LargestDifference(actual, *expected), tolerance);
}

void CogViewCases::CompareIds(const std::string& tensor, const std::vector<int32_t>& actual) {
  const absl::StatusOr<std::vector<int32_t>> expected = Ids(tensor);
  if (!expected.ok()) return Add(tensor, kInfinity, 0, "no such tensor of ids");
  size_t same = 0;
  for (size_t i = 0; i < std::min(actual.size(), expected->size()); ++i) {
    same += actual[i] == (*expected)[i] ? 1 : 0;
  }
  Add(tensor, static_cast<double>(std::max(actual.size(), expected->size()) - same), 0);
}

const Json* CogViewCases::Field(const std::string& name) const {
  const size_t dot = name.find('.');
  const Json& fields = Fields(name.substr(0, dot));
  const auto found = fields.is_object() ? fields.find(name.substr(dot + 1)) : fields.end();
  return found == fields.end() ? nullptr : &*found;
}

void CogViewCases::CompareNumber(const std::string& field, double actual, double tolerance) {
  const Json* expected = Field(field);
  if (expected == nullptr) return;
  Add(field, expected->is_number() ? std::abs(actual - expected->get<double>()) : kInfinity,
      tolerance);
}

void CogViewCases::CompareList(const std::string& field, const std::vector<float>& actual,
                               double tolerance) {
  const Json* expected = Field(field);
  if (expected == nullptr) return;
  double worst = expected->is_array() && expected->size() == actual.size() ? 0 : kInfinity;
  for (size_t i = 0; i < actual.size() && worst < kInfinity; ++i) {
    const Json& one = (*expected)[i];
    worst = std::max(worst, one.is_number() ? std::abs(one.get<double>() - actual[i]) : kInfinity);
  }
  Add(absl::StrCat(field, tensors_.Find(field) == nullptr ? "" : " (cases.json)"), worst,
      tolerance);
}

void CogViewCases::CompareJson(const std::string& field, const Json& actual, bool same) {
  const Json* expected = Field(field);
  if (expected == nullptr) return;
  Add(field, *expected == actual && same ? 0 : 1, 0);
}

void CogViewCases::Failed(const std::string& name, const absl::Status& status) {
  report_->Add({.name = name,
                .difference = kInfinity,
                .result = VerifyLine::Result::kFail,
                .note = std::string(status.message())});
}

void CogViewCases::Rest() {
  const auto unknown = [&](const std::string& name) {
    if (replayed_.contains(name) || !report_->Wants(name)) return;
    report_->Add({.name = name,
                  .result = VerifyLine::Result::kUnknown,
                  .note = "nothing here replays this"});
  };
  for (const std::string& name : Names()) unknown(name);
  for (const auto& [name, fields] : cases_.items()) {
    if (!fields.is_object()) {
      unknown(name);
      continue;
    }
    for (const auto& [key, value] : fields.items()) {
      const bool describes = value.is_string() && name != "queries";
      if (!describes) unknown(absl::StrCat(name, ".", key));
    }
  }
}

}  // namespace qianyi
