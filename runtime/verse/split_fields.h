// Fields of the tables in this folder.
#pragma once

#include <string_view>
#include <vector>

namespace qianyi {

// The parts of `text` between separators, empty ones too; views of `text`.
inline std::vector<std::string_view> Split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (;;) {
    const size_t end = text.find(separator);
    parts.push_back(text.substr(0, end));
    if (end == text.npos) return parts;
    text.remove_prefix(end + 1);
  }
}

}  // namespace qianyi
