// Gates of FastMoE: where they send tokens, with which weights, what capacity drops, their losses;
// and whole layers of experts behind them.
#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"
#include "runtime/storage/file_util.h"
#include "runtime/verify/fastmoe_gates.h"
#include "runtime/verify/fastmoe_layer.h"
#include "runtime/verify/fixture.h"
#include "runtime/verify/model_cases.h"
#include "runtime/verify/verify.h"

namespace qianyi {
namespace {

using Json = nlohmann::json;

class Replay {
 public:
  Replay(const std::string& folder, VerifyReport& report) : folder_(folder), report_(report) {}

  absl::Status Run() {
    if (absl::Status status = Load(); !status.ok()) return status;
    for (const auto& [name, fields] : cases_.items()) {
      absl::Status status;
      if (absl::StartsWith(name, "ffn.")) {
        status = ReplayLayer(name, fields);
      } else if (name == "state_dict_names") {
        ReplayNames(fields);
      } else if (const std::optional<GateCase> of = ParseGateName(name); of && fields.is_object()) {
        status = ReplayGate(name, *of, fields);
      } else if (!fields.is_string()) {
        report_.Add({.name = name,
                     .result = VerifyLine::Result::kUnknown,
                     .note = "nothing here replays this field"});
      }
      if (!status.ok()) return status;
    }
    for (const SafetensorsEntry& entry : tensors_->entries()) {
      if (replayed_.contains(entry.name)) continue;
      report_.Add({.name = entry.name,
                   .result = VerifyLine::Result::kUnknown,
                   .note = "nothing here replays this tensor"});
    }
    return absl::OkStatus();
  }

 private:
  absl::Status Load() {
    absl::StatusOr<Json> cases = ReadJson(JoinPath(folder_, "cases.json"));
    if (!cases.ok()) return cases.status();
    cases_ = *std::move(cases);
    absl::StatusOr<Json> config = ReadJson(JoinPath(folder_, "config.json"));
    if (!config.ok()) return config.status();
    config_ = *std::move(config);
    for (auto [file, path] :
         {std::pair(&tensors_, "cases.safetensors"), std::pair(&weights_, "weights.safetensors")}) {
      absl::StatusOr<Safetensors> opened = Safetensors::Open(JoinPath(folder_, path));
      if (!opened.ok()) return opened.status();
      *file = *std::move(opened);
    }
    absl::StatusOr<FastMoeWeights> found = FastMoeWeights::Find(*weights_);
    if (!found.ok()) return found.status();
    layer_weights_ = *std::move(found);
    experts_ = layer_weights_.experts();
    size_ = layer_weights_.model_size();
    absl::StatusOr<std::vector<float>> input = Input("input", -1);
    if (!input.ok()) return input.status();
    input_ = *std::move(input);
    if (input_.empty() || input_.size() % size_ != 0) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s: input is not [tokens, %d]", tensors_->path(), size_));
    }
    tokens_ = static_cast<int64_t>(input_.size()) / size_;
    for (const char* part : {"weight", "bias"}) {
      absl::StatusOr<std::vector<float>> values = layer_weights_.Gate(part);
      if (!values.ok()) return values.status();
      (part[0] == 'w' ? gate_weight_ : gate_bias_) = *std::move(values);
    }
    if (tensors_->Find("gate_logits") != nullptr) {
      const Doubles logits = Logits(gate_weight_, &gate_bias_);
      Compare("gate_logits", {logits.begin(), logits.end()});
    }
    return OpenLayer();
  }

  absl::Status OpenLayer() {
    if (absl::Status made = temporary_.status(); !made.ok()) return made;
    auto layer = FastMoeLayer::Open(layer_weights_, temporary_.path() + "/layer", tokens_);
    if (!layer.ok()) return layer.status();
    layer_ = *std::move(layer);
    return absl::OkStatus();
  }

  // A tensor that is given, not expected; `count` values, or any number.
  absl::StatusOr<std::vector<float>> Input(const std::string& name, int64_t count) {
    absl::StatusOr<std::vector<float>> values = tensors_->ReadFloats(name);
    if (!values.ok()) return values.status();
    replayed_.insert(name);
    if (count >= 0 && static_cast<int64_t>(values->size()) != count) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s: %s has not %d values", tensors_->path(), name, count));
    }
    return values;
  }

  // input * weight' + bias, in double.
  Doubles Logits(const std::vector<float>& weight, const std::vector<float>* bias) const {
    Doubles logits;
    for (int64_t t = 0; t < tokens_; ++t) {
      for (int64_t e = 0; e < experts_; ++e) {
        double sum = bias == nullptr ? 0 : (*bias)[e];
        for (int64_t k = 0; k < size_; ++k) {
          sum += double{input_[t * size_ + k]} * weight[e * size_ + k];
        }
        logits.push_back(sum);
      }
    }
    return logits;
  }

  // [size, experts] as FastMoE's noisy gate has it -> [experts, size].
  absl::StatusOr<std::vector<float>> Transposed(const std::string& name) const {
    absl::StatusOr<std::vector<float>> values = weights_->ReadFloats(name);
    if (!values.ok()) return values.status();
    if (static_cast<int64_t>(values->size()) != experts_ * size_) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s: %s is not [%d, %d]", weights_->path(), name, size_, experts_));
    }
    std::vector<float> turned(values->size());
    for (int64_t k = 0; k < size_; ++k) {
      for (int64_t e = 0; e < experts_; ++e) turned[e * size_ + k] = (*values)[k * experts_ + e];
    }
    return turned;
  }

  // What the gate in training adds to its logits.
  absl::StatusOr<std::vector<float>> Noise(const GateCase& of, Doubles* deviations) {
    std::vector<float> noise(tokens_ * experts_, 0.0f);
    if (of.kind == "switch" && of.training) {
      const double epsilon = config_.value("switch_eps", 0.1);
      absl::StatusOr<std::vector<float>> uniform =
          Input("random.switch_uniform", tokens_ * experts_);
      if (!uniform.ok()) return uniform.status();
      for (size_t i = 0; i < noise.size(); ++i) {
        noise[i] = static_cast<float>((*uniform)[i] * 2 * epsilon + 1 - epsilon);
      }
    }
    if (of.kind == "noisy") {
      absl::StatusOr<std::vector<float>> weight = Transposed("noisy.w_noise");
      if (!weight.ok()) return weight.status();
      absl::StatusOr<std::vector<float>> normal = Input("random.noisy_normal", tokens_ * experts_);
      if (!normal.ok()) return normal.status();
      *deviations = Logits(*weight, nullptr);
      for (size_t i = 0; i < noise.size(); ++i) {
        (*deviations)[i] = std::log1p(std::exp((*deviations)[i])) + kGateNoiseEpsilon;
        noise[i] = static_cast<float>((*normal)[i] * (*deviations)[i]);
      }
    }
    return noise;
  }

  RoutedTokens RunGate(const GateCase& of, const std::vector<float>& weight,
                       const std::vector<float>& noise, int64_t capacity,
                       const float* uniform) const {
    RoutedTokens routed;
    routed.chosen.resize(tokens_ * of.top_k);
    routed.weights.resize(tokens_ * of.top_k);
    std::vector<float> scores(tokens_ * 2 * experts_);
    const Stream stream = Cpu().create_stream(1);
    RouteWithin(capacity,
                {.gate = of.gate(),
                 .x = F32(const_cast<float*>(input_.data()), tokens_, size_),
                 .weight = weight.data(),
                 .bias = of.with_bias ? gate_bias_.data() : nullptr,
                 .noise = noise.data(),
                 .experts = experts_,
                 .top_k = of.top_k,
                 .uniform = uniform,
                 .scores = scores.data(),
                 .chosen = routed.chosen.data(),
                 .weights = routed.weights.data()},
                Cpu(), stream);
    Cpu().destroy_stream(stream);
    return routed;
  }

  absl::Status ReplayGate(const std::string& name, const GateCase& of, const Json& fields) {
    if (of.top_k < 1 || of.top_k > experts_) {
      return absl::InvalidArgumentError(absl::StrCat("cases.json: ", name, " has no such top k"));
    }
    Doubles deviations;
    absl::StatusOr<std::vector<float>> noise = Noise(of, &deviations);
    if (!noise.ok()) return noise.status();
    std::vector<float> weight = gate_weight_;
    if (of.kind == "noisy") {
      absl::StatusOr<std::vector<float>> turned = Transposed("noisy.w_gate");
      if (!turned.ok()) return turned.status();
      weight = *std::move(turned);
    }
    std::vector<float> uniform;
    if (of.random) {
      absl::StatusOr<std::vector<float>> values = Input("random.routing_uniform", tokens_);
      if (!values.ok()) return values.status();
      uniform = *std::move(values);
    }
    const ExpertLayer sizes({.top_k = of.top_k, .capacity_rate = of.rate},
                            std::vector<ExpertWeights>(experts_));
    const int64_t capacity = sizes.Capacity(tokens_);
    const RoutedTokens before = RunGate(of, weight, *noise, -1, nullptr);
    const RoutedTokens after =
        RunGate(of, weight, *noise, capacity, of.random ? uniform.data() : nullptr);
    CompareChoices(name, before, after, of.top_k);
    CompareFields(name, fields, after, capacity);
    const Doubles logits = Logits(weight, of.with_bias ? &gate_bias_ : nullptr);
    const double loss = of.kind == "noisy"
                            ? NoisyLoss(logits, *noise, deviations, experts_, before, of.top_k)
                            : BalanceLoss(of, logits, *noise, experts_, before, after);
    Compare(name + ".loss", {static_cast<float>(loss)});
    return absl::OkStatus();
  }

  void CompareChoices(const std::string& name, const RoutedTokens& before,
                      const RoutedTokens& after, int64_t top_k) {
    CompareIntegers(name + ".idx", after.chosen);
    Compare(name + ".score", after.weights);
    CompareIntegers(name + ".idx_before_drop", before.chosen);
    CompareIntegers(name + ".load", Load(after));
    std::vector<int32_t> dropped;
    for (const int32_t id : after.chosen) dropped.push_back(id < 0 ? 1 : 0);
    CompareIntegers(name + ".dropped", dropped);
    // The order in which a library gave them is no part of the result: by token, as a set.
    Sorted("idx_cpu_unsorted", "score_cpu_unsorted", name, before, top_k);
  }

  void Sorted(const char* ids_field, const char* scores_field, const std::string& name,
              const RoutedTokens& ours, int64_t top_k) {
    const std::string ids_name = absl::StrCat(name, ".", ids_field);
    const std::string scores_name = absl::StrCat(name, ".", scores_field);
    absl::StatusOr<std::vector<int64_t>> ids = tensors_->ReadIntegers(ids_name);
    absl::StatusOr<std::vector<float>> scores = tensors_->ReadFloats(scores_name);
    if (!ids.ok() || !scores.ok() || ids->size() != ours.chosen.size() ||
        scores->size() != ours.weights.size()) {
      return;  // reported as unknown where they are there
    }
    double difference = 0;
    std::vector<int32_t> matched(ids->begin(), ids->end());
    for (size_t i = 0; i < ids->size(); ++i) {
      const auto begin = ours.chosen.begin() + i / top_k * top_k;
      const auto at = std::find(begin, begin + top_k, (*ids)[i]);
      if (at == begin + top_k) {
        matched[i] = -1;
      } else {
        const float own = ours.weights[at - ours.chosen.begin()];
        difference = std::max(difference, std::abs(double{own} - (*scores)[i]));
      }
    }
    CompareIntegers(ids_name, matched);
    replayed_.insert(scores_name);
    AddNumber(scores_name, difference, kLogitTolerance);
  }

  void CompareFields(const std::string& name, const Json& fields, const RoutedTokens& routed,
                     int64_t capacity) {
    for (const auto& [field, value] : fields.items()) {
      Json ours;
      if (field == "load") ours = Load(routed);
      if (field == "dropped") {
        ours = std::count(routed.chosen.begin(), routed.chosen.end(), -1);
      }
      if (field == "capacity") ours = capacity;
      AddSame(absl::StrCat(name, ".", field), ours == value);
    }
  }

  std::vector<int32_t> Load(const RoutedTokens& routed) const {
    std::vector<int32_t> load(experts_, 0);
    for (const int32_t id : routed.chosen) {
      if (id >= 0) ++load[id];
    }
    return load;
  }

  // "ffn.gshard_tight": a whole layer, in evaluation.
  absl::Status ReplayLayer(const std::string& name, const Json& fields) {
    const std::string kind = name.substr(sizeof("ffn.") - 1);
    const bool is_switch = absl::StartsWith(kind, "switch"),
               gshard = absl::StartsWith(kind, "gshard");
    const int64_t top_k = NumberOf(fields, "top_k", is_switch ? 1 : 2);
    const Json capacities = config_.value("capacities", Json::array());
    double rate = 0;
    if (is_switch || gshard) {
      if (!capacities.is_array() || capacities.empty()) {
        return absl::InvalidArgumentError("config.json: capacities are missing");
      }
      const Json& pair = absl::EndsWith(kind, "_tight") ? capacities.back() : capacities.front();
      if (!pair.is_array() || pair.size() != 2 || !pair[1].is_number()) {
        return absl::InvalidArgumentError("config.json: capacities are not pairs of numbers");
      }
      rate = pair[1].get<double>();
    }
    std::vector<float> uniform;
    if (absl::EndsWith(kind, "_random")) {
      absl::StatusOr<std::vector<float>> values = Input("random.routing_uniform", tokens_);
      if (!values.ok()) return values.status();
      uniform = *std::move(values);
    }
    if (top_k < 1 || top_k > experts_) {
      return absl::InvalidArgumentError(absl::StrCat("cases.json: ", name, " has no such top_k"));
    }
    absl::StatusOr<FastMoeLayer::Output> output =
        layer_->Run({.gate = is_switch ? RouterGate::kSwitch : RouterGate::kNaive,
                     .top_k = top_k,
                     .capacity_rate = rate},
                    input_, uniform.empty() ? nullptr : uniform.data());
    if (!output.ok()) return output.status();
    CompareIntegers(name + ".idx", output->chosen);
    Compare(name + ".score", output->weights);
    Compare(name + ".output", output->rows);
    for (const auto& [field, value] : fields.items()) {
      const std::string full = absl::StrCat(name, ".", field);
      if (field == "top_k") {
        AddSame(full, value == top_k);
      } else if (field == "dropped") {
        AddSame(full, value == std::count(output->chosen.begin(), output->chosen.end(), -1));
      } else if (field == "max_diff_plain_sum" && value.is_number()) {
        absl::StatusOr<double> difference = FromPlainSum(*output, top_k);
        if (!difference.ok()) return difference.status();
        AddNumber(full, std::abs(*difference - value.get<double>()), kLogitTolerance);
      } else {
        AddSame(full, false);
      }
    }
    return absl::OkStatus();
  }

  // The largest difference of a layer's output from the sum written out in double.
  absl::StatusOr<double> FromPlainSum(const FastMoeLayer::Output& output, int64_t top_k) const {
    Doubles plain(tokens_ * size_, 0.0);
    for (int64_t e = 0; e < experts_; ++e) {
      std::vector<float> parts[4];
      int at = 0;
      for (const char* matrix : {"htoh4", "h4toh"}) {
        for (const char* part : {"weight", "bias"}) {
          absl::StatusOr<std::vector<float>> values = layer_weights_.Read(e, matrix, part);
          if (!values.ok()) return values.status();
          parts[at++] = *std::move(values);
        }
      }
      for (int64_t i = 0; i < tokens_ * top_k; ++i) {
        if (output.chosen[i] == e) AddExpert(e, i / top_k, output.weights[i], parts, &plain);
      }
    }
    double most = 0;
    for (size_t i = 0; i < plain.size(); ++i) {
      most = std::max(most, std::abs(plain[i] - output.rows[i]));
    }
    return most;
  }

  void AddExpert(int64_t expert, int64_t token, double score, const std::vector<float>* parts,
                 Doubles* out) const {
    Doubles middle;
    const int64_t ffn = layer_weights_.ffn(expert);
    for (int64_t r = 0; r < ffn; ++r) {
      double sum = parts[1][r];
      for (int64_t k = 0; k < size_; ++k) {
        sum += double{input_[token * size_ + k]} * parts[0][r * size_ + k];
      }
      middle.push_back(sum / 2 * (1 + std::erf(sum / std::sqrt(2.0))));
    }
    for (int64_t r = 0; r < size_; ++r) {
      double sum = parts[3][r];
      for (int64_t k = 0; k < ffn; ++k) sum += middle[k] * parts[2][r * ffn + k];
      (*out)[token * size_ + r] += score * sum;
    }
  }

  // The names of the layer's tensors, as FastMoE saves them.
  void ReplayNames(const Json& expected) {
    std::vector<std::string> names;
    for (const SafetensorsEntry& entry : weights_->entries()) {
      if (!absl::StartsWith(entry.name, "noisy.")) names.push_back(entry.name);
    }
    std::vector<std::string> wanted;
    if (expected.is_array()) {
      for (const Json& name : expected) {
        wanted.push_back(name.is_string() ? name.get<std::string>() : "");
      }
    }
    std::sort(names.begin(), names.end());
    std::sort(wanted.begin(), wanted.end());
    AddSame("state_dict_names", names == wanted);
  }

  void Compare(const std::string& name, const std::vector<float>& actual) {
    if (tensors_->Find(name) == nullptr) return;
    replayed_.insert(name);
    CompareTensor(name, actual, *tensors_, report_);
  }

  void CompareIntegers(const std::string& name, const std::vector<int32_t>& actual) {
    const SafetensorsEntry* entry = tensors_->Find(name);
    if (entry == nullptr) return;
    replayed_.insert(name);
    if (!report_.Wants(name)) return;
    absl::StatusOr<std::vector<int64_t>> expected = tensors_->ReadIntegers(name);
    double different = std::numeric_limits<double>::infinity();
    if (expected.ok() && expected->size() == actual.size()) {
      different = 0;
      for (size_t i = 0; i < actual.size(); ++i) different += (*expected)[i] == actual[i] ? 0 : 1;
    }
    VerifyLine line{.name = name, .difference = different, .note = {}};
    if (different > 0) line.result = VerifyLine::Result::kFail;
    if (!expected.ok()) line.note = std::string(expected.status().message());
    report_.Add(std::move(line));
  }

  void AddSame(const std::string& name, bool same) {
    report_.Add({.name = name,
                 .difference = same ? 0.0 : 1.0,
                 .result = same ? VerifyLine::Result::kOk : VerifyLine::Result::kFail,
                 .note = {}});
  }

  void AddNumber(const std::string& name, double difference, double tolerance) {
    report_.Add(
        {.name = name,
         .difference = difference,
         .tolerance = tolerance,
         .result = difference <= tolerance ? VerifyLine::Result::kOk : VerifyLine::Result::kFail,
         .note = {}});
  }

  const std::string folder_;
  VerifyReport& report_;
  const TemporaryFolder temporary_;
  Json cases_, config_;
  std::optional<Safetensors> tensors_, weights_;
  FastMoeWeights layer_weights_;
  std::unique_ptr<FastMoeLayer> layer_;
  int64_t experts_ = 0, size_ = 0, tokens_ = 0;
  std::vector<float> input_, gate_weight_, gate_bias_;
  std::set<std::string> replayed_;
};

}  // namespace

absl::Status VerifyFastMoe(const std::string& folder, VerifyReport& report) {
  return Replay(folder, report).Run();
}

}  // namespace qianyi
