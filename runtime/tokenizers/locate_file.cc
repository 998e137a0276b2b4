#include "runtime/tokenizers/locate_file.h"

#include <filesystem>
#include <system_error>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace qianyi {

absl::StatusOr<std::string> LocateFile(const std::string& folder, const std::string& name) {
  namespace fs = std::filesystem;
  const fs::path relative = name;
  bool leaves = relative.is_absolute() || name.empty();
  for (const fs::path& part : relative) leaves = leaves || part == "..";
  if (leaves) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", name, "\" is no relative path without \"..\""));
  }
  std::error_code error;
  // With a trailing slash "x/." and "x" normalize alike, and have one parent.
  const fs::path base = (fs::absolute(folder, error) / "").lexically_normal().parent_path();
  for (const fs::path& root : {base, base.parent_path()}) {
    if (fs::is_regular_file(root / relative, error)) return (root / relative).string();
  }
  return absl::NotFoundError(
      absl::StrCat("there is no ", name, " in ", base.string(), " or in the folder above it"));
}

}  // namespace qianyi
