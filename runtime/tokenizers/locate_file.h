// Files that a configuration names.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace qianyi {

// The path of the file `name`, relative to `folder` or else to its parent. InvalidArgument for
// absolute names and names with "..", NotFound when neither place has it; both say the name.
absl::StatusOr<std::string> LocateFile(const std::string& folder, const std::string& name);

}  // namespace qianyi
