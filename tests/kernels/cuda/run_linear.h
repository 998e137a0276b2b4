// Linear layers of the case table on a device.
#pragma once

#include <vector>

#include "tests/kernels/cases.h"

namespace qianyi::testing {

// The tokens [begin, begin + count) of a problem; empty where something wrote beside the result.
std::vector<float> RunOn(const Backend& device, LinearProblem& problem, int64_t begin,
                         int64_t count);

}  // namespace qianyi::testing
