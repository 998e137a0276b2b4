// What is wrong with a file of an adapter.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace qianyi {

// "PATH: MESSAGE", invalid argument.
inline absl::Status InFile(const std::string& path, absl::string_view message) {
  return absl::InvalidArgumentError(absl::StrCat(path, ": ", message));
}

}  // namespace qianyi
