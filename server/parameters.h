// The one table of what a request may set: REST and gRPC read their parameters by it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
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
  std::vector<std::string> stop;  // the text ends before any of these
  std::vector<std::string> set;   // what SetParameter was called with, by name
};

// Whether `name` is in the table.
bool IsParameter(std::string_view name);
// Sets one; null leaves the default. InvalidArgument names the parameter, its value and the limit.
absl::Status SetParameter(std::string_view name, const nlohmann::json& value,
                          Parameters* parameters);
// The table as properties of a JSON schema, by name.
nlohmann::json ParametersSchema();

}  // namespace qianyi
