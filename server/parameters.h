// The one table of what a request may set: REST and gRPC read their parameters by it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "nlohmann/json_fwd.hpp"
#include "runtime/sampler.h"

namespace qianyi {

struct Parameters {
  SamplingParams sampling;
  bool seeded = false;            // otherwise each request draws a seed
  int64_t max_tokens = 0;         // of each blank; 0 = what there is room for
  int64_t n = 1;                  // choices
  int64_t best_of = 0;            // of so many, the n likeliest are shown; 0 = n
  std::vector<std::string> stop;  // the text ends before any of these
  std::vector<std::string> set;   // what SetParameter was called with, by name

  // What the engine has to write, of which `n` are shown.
  int64_t candidates() const { return best_of > n ? best_of : n; }
};

// Whether `name` is in the table.
bool IsParameter(std::string_view name);
// Sets one; null leaves the default. InvalidArgument names the parameter, its value and the limit.
absl::Status SetParameter(std::string_view name, const nlohmann::json& value,
                          Parameters* parameters);
// The table as properties of a JSON schema, by name.
nlohmann::json ParametersSchema();

// The most of those that count something: "n", "stop", …
std::vector<std::pair<std::string_view, int64_t>> ParameterLimits();

}  // namespace qianyi
