// How many sequences at once a machine should have places for.
#pragma once

#include <cstdint>
#include <functional>

#include "absl/status/statusor.h"
#include "runtime/plan.h"

namespace qianyi {

// Where a batch is to be chosen.
inline constexpr int64_t kAutoBatch = 0;
// The most that is chosen.
inline constexpr int64_t kMostChosenBatch = 256;

// More places make one step of streamed weights serve more sequences, until arithmetic or the cache
// that the places take costs as much; what they take of memory while few run is lent to weights
// (ModelPlan::lendable_bytes). So: the smallest number with nine tenths of the tokens/s that any
// would have by the bounds of `rates`, as more makes everybody wait for little. `plan_for` gives a
// batch's plan, of one model or of several that step in turn. Plans that stream are left out where
// the disk's rate is not known. `cpu_rows`: as of EstimateBound. Where not even one place fits, its
// error.
absl::StatusOr<int64_t> ChooseBatch(
    const std::function<absl::StatusOr<Plan>(int64_t batch)>& plan_for, const Rates& rates,
    bool cpu_rows);

}  // namespace qianyi
