// How fast this machine is: as flags say, as was measured before, or measured now.
#pragma once

#include "cli/command.h"
#include "nlohmann/json.hpp"
#include "runtime/plan.h"

namespace qianyi {

struct RateFlags {
  Rates given;  // 0: not
  bool measure = false;

  void Add(CLI::App& command);
  // What bounds `plan`, of a model like `file`. InvalidArgument names a flag where something is
  // not here to be measured: a device, or the disk of a model without a file.
  absl::StatusOr<Rates> Fill(const ModelFile& file, const Plan& plan, const RunFlags& run) const;
};

nlohmann::json ToJson(const Rates& rates);

}  // namespace qianyi
