// The cases of sparse attention in a CogView fixture.
#pragma once

#include "nlohmann/json.hpp"
#include "runtime/verify/cogview_cases.h"

namespace qianyi {

// Those that the folder has: the function alone, and the model with it. `config`: the fixture's.
void ReplaySparse(CogViewCases& cases, const nlohmann::json& config);

}  // namespace qianyi
