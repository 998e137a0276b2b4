#include "server/parameters.h"

#include <cmath>
#include <functional>
#include <limits>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"
#include "server/error.h"

namespace qianyi {
namespace {

using nlohmann::json;

constexpr int64_t kMaxTokens = 1 << 20;
constexpr int64_t kMaxSeed = std::numeric_limits<int64_t>::max();
constexpr size_t kMaxStops = 4;
constexpr size_t kMaxStopBytes = 256;
constexpr size_t kMaxBiases = 1024;

std::string Shown(const json& value) {
  std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}

absl::Status Refuse(std::string_view name, const json& value, std::string_view allowed) {
  return BadParam(name, absl::StrFormat("%s is %s; it must be %s", name, Shown(value), allowed));
}

enum class Bounds { kClosed, kOpenBelow, kOpenAbove };

struct Number {
  const char* name;
  double least, most;
  Bounds bounds;
  std::function<void(double, Parameters*)> set;
};
const std::vector<Number>& Numbers() {
  static const std::vector<Number> table = {
      {"temperature", 0, 2, Bounds::kClosed,
       [](double v, Parameters* p) { p->sampling.temperature = static_cast<float>(v); }},
      {"top_p", 0, 1, Bounds::kOpenBelow,
       [](double v, Parameters* p) { p->sampling.top_p = static_cast<float>(v); }},
      {"min_p", 0, 1, Bounds::kOpenAbove,
       [](double v, Parameters* p) { p->sampling.min_p = static_cast<float>(v); }},
      {"repetition_penalty", 0, 10, Bounds::kOpenBelow,
       [](double v, Parameters* p) { p->sampling.repetition_penalty = static_cast<float>(v); }},
      {"presence_penalty", -2, 2, Bounds::kClosed,
       [](double v, Parameters* p) { p->sampling.presence_penalty = static_cast<float>(v); }},
      {"frequency_penalty", -2, 2, Bounds::kClosed,
       [](double v, Parameters* p) { p->sampling.frequency_penalty = static_cast<float>(v); }},
  };
  return table;
}

struct Whole {
  const char* name;
  int64_t least, most;
  std::function<void(int64_t, Parameters*)> set;
};
const std::vector<Whole>& Wholes() {
  static const std::vector<Whole> table = {
      {"max_tokens", 1, kMaxTokens, [](int64_t v, Parameters* p) { p->max_tokens = v; }},
      {"max_completion_tokens", 1, kMaxTokens, [](int64_t v, Parameters* p) { p->max_tokens = v; }},
      {"top_k", 0, kMaxTokens,
       [](int64_t v, Parameters* p) { p->sampling.top_k = static_cast<int32_t>(v); }},
      {"n", 1, 128, [](int64_t v, Parameters* p) { p->n = v; }},
      {"best_of", 1, 20, [](int64_t v, Parameters* p) { p->best_of = v; }},
      {"top_logprobs", 0, 20,
       [](int64_t v, Parameters* p) {
         p->sampling.logprobs = static_cast<int32_t>(v);
         p->sampling.report_logprob = true;
       }},
      {"seed", 0, kMaxSeed,
       [](int64_t v, Parameters* p) {
         p->sampling.seed = static_cast<uint64_t>(v);
         p->seeded = true;
       }},
  };
  return table;
}

absl::Status SetNumber(const Number& row, const json& value, Parameters* parameters) {
  const char* form = row.bounds == Bounds::kOpenBelow   ? "a number above %g, up to %g"
                     : row.bounds == Bounds::kOpenAbove ? "a number from %g, below %g"
                                                        : "a number %g..%g";
  const double number = value.is_number() ? value.get<double>() : std::nan("");
  const bool inside = number >= row.least && number <= row.most &&
                      (row.bounds != Bounds::kOpenBelow || number > row.least) &&
                      (row.bounds != Bounds::kOpenAbove || number < row.most);
  if (!inside) {
    char allowed[96];
    std::snprintf(allowed, sizeof allowed, form, row.least, row.most);
    return Refuse(row.name, value, allowed);
  }
  row.set(number, parameters);
  return absl::OkStatus();
}

absl::Status SetWhole(const Whole& row, const json& value, Parameters* parameters) {
  const auto refuse = [&] {
    return Refuse(row.name, value, absl::StrFormat("a whole number %d..%d", row.least, row.most));
  };
  int64_t number = 0;
  if (value.is_number_unsigned()) {
    if (value.get<uint64_t>() > static_cast<uint64_t>(row.most)) return refuse();
    number = value.get<int64_t>();
  } else if (value.is_number_integer()) {
    number = value.get<int64_t>();
  } else if (value.is_number_float() && std::floor(value.get<double>()) == value.get<double>() &&
             std::abs(value.get<double>()) < 9e15) {
    number = static_cast<int64_t>(value.get<double>());  // 16.0, as some clients write 16
  } else {
    return refuse();
  }
  if (number < row.least || number > row.most) return refuse();
  row.set(number, parameters);
  return absl::OkStatus();
}

absl::Status SetStop(const json& value, Parameters* parameters) {
  const json list = value.is_string() ? json::array({value}) : value;
  bool good = list.is_array() && list.size() <= kMaxStops;
  parameters->stop.clear();
  for (size_t i = 0; good && i < list.size(); ++i) {
    good = list[i].is_string() && !list[i].get_ref<const std::string&>().empty() &&
           list[i].get_ref<const std::string&>().size() <= kMaxStopBytes;
    if (good) parameters->stop.push_back(list[i].get<std::string>());
  }
  if (good) return absl::OkStatus();
  return Refuse("stop", value,
                absl::StrFormat("a string, or a list of at most %d, each of 1 to %d bytes",
                                kMaxStops, kMaxStopBytes));
}

absl::Status SetBias(const json& value, Parameters* parameters) {
  bool good = value.is_object() && value.size() <= kMaxBiases;
  parameters->sampling.logit_bias.clear();
  if (good) {
    for (const auto& [key, bias] : value.items()) {
      int32_t token = 0;
      good = absl::SimpleAtoi(key, &token) && token >= 0 && bias.is_number() &&
             std::abs(bias.get<double>()) <= 100;
      if (!good) break;
      parameters->sampling.logit_bias.emplace_back(token, bias.get<float>());
    }
  }
  if (good) return absl::OkStatus();
  return Refuse(
      "logit_bias", value,
      absl::StrFormat("an object of at most %d entries, token id to -100..100", kMaxBiases));
}

template <typename Row>
const Row* FindRow(const std::vector<Row>& table, std::string_view name) {
  for (const Row& row : table) {
    if (row.name == name) return &row;
  }
  return nullptr;
}

}  // namespace

bool IsParameter(std::string_view name) {
  return name == "stop" || name == "logit_bias" || FindRow(Numbers(), name) != nullptr ||
         FindRow(Wholes(), name) != nullptr;
}

json ParametersSchema() {
  json schema;
  for (const Number& row : Numbers()) {
    const bool above = row.bounds == Bounds::kOpenBelow;
    const bool below = row.bounds == Bounds::kOpenAbove;
    schema[row.name] = {{"type", {"number", "null"}},
                        {above ? "exclusiveMinimum" : "minimum", row.least},
                        {below ? "exclusiveMaximum" : "maximum", row.most}};
  }
  for (const Whole& row : Wholes()) {
    schema[row.name] = {
        {"type", {"integer", "null"}}, {"minimum", row.least}, {"maximum", row.most}};
  }
  // JSON schemas count characters, the table bytes.
  const json stop = {{"type", "string"}, {"minLength", 1}, {"maxLength", kMaxStopBytes / 4}};
  schema["stop"] = {
      {"anyOf",
       {stop, {{"type", "array"}, {"maxItems", kMaxStops}, {"items", stop}}, {{"type", "null"}}}}};
  schema["logit_bias"] = {
      {"type", {"object", "null"}},
      {"maxProperties", kMaxBiases},
      {"propertyNames", {{"pattern", "^[0-9]{1,9}$"}}},
      {"additionalProperties", {{"type", "number"}, {"minimum", -100}, {"maximum", 100}}}};
  return schema;
}

std::vector<std::pair<std::string_view, int64_t>> ParameterLimits() {
  std::vector<std::pair<std::string_view, int64_t>> limits = {{"stop", kMaxStops},
                                                              {"logit_bias", kMaxBiases}};
  for (const Whole& row : Wholes()) {
    if (row.most < kMaxTokens) limits.emplace_back(row.name, row.most);
  }
  return limits;
}

absl::Status SetParameter(std::string_view name, const json& value, Parameters* parameters) {
  if (value.is_null()) return absl::OkStatus();
  parameters->set.emplace_back(name == "max_completion_tokens" ? "max_tokens" : name);
  if (name == "stop") return SetStop(value, parameters);
  if (name == "logit_bias") return SetBias(value, parameters);
  if (const Number* row = FindRow(Numbers(), name)) return SetNumber(*row, value, parameters);
  if (const Whole* row = FindRow(Wholes(), name)) return SetWhole(*row, value, parameters);
  return BadParam(name, absl::StrFormat("%s is not a parameter; remove it", name));
}

}  // namespace qianyi
