#include "cli/ids.h"

#include <charconv>

#include "absl/strings/str_format.h"

namespace qianyi {

absl::StatusOr<std::vector<int32_t>> ParseIds(std::string_view flag, std::string_view text) {
  std::vector<int32_t> ids;
  while (true) {
    const std::string_view piece = text.substr(0, text.find(','));
    const size_t first = piece.find_first_not_of(' ');
    const std::string_view digits =
        first == std::string_view::npos
            ? std::string_view()
            : piece.substr(first, piece.find_last_not_of(' ') - first + 1);
    int32_t id = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), id);
    if (error != std::errc() || end != digits.data() + digits.size() || id < 0) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s: item %d, '%s', is no token id; write ids as 5,6,7", flag,
                          ids.size() + 1, piece.substr(0, 40)));
    }
    ids.push_back(id);
    if (piece.size() == text.size()) return ids;
    text.remove_prefix(piece.size() + 1);
  }
}

std::string FormatIds(std::span<const int32_t> ids) {
  std::string text;
  for (const int32_t id : ids) absl::StrAppendFormat(&text, "%s%d", text.empty() ? "" : ",", id);
  return text;
}

}  // namespace qianyi
