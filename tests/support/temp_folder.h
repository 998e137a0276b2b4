// Files that a test makes and that are gone after it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace qianyi::testing {

// A folder of its own, removed at the end.
class TempFolder {
 public:
  TempFolder();
  ~TempFolder();
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string operator/(std::string_view name) const;
  // Names of everything in it, hidden ones too, sorted.
  std::vector<std::string> Names() const;

 private:
  std::string path_;
};

std::vector<std::string> NamesIn(const std::string& folder);
void WriteText(const std::string& path, std::string_view text);
std::string ReadText(const std::string& path);
// A writable copy of a folder and all in it; `to` must not exist.
void CopyFolder(const std::string& from, const std::string& to);

}  // namespace qianyi::testing
