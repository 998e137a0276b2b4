#include "runtime/verify/report.h"

namespace qianyi {
namespace {

// Linear-time glob: on a mismatch only the last star is tried again.
bool Matches(std::string_view pattern, std::string_view text) {
  size_t p = 0, t = 0, star = std::string_view::npos, mark = 0;
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      mark = t;
    } else if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == text[t])) {
      ++p;
      ++t;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      t = ++mark;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

}  // namespace

bool VerifyReport::Wants(std::string_view behind_prefix) const {
  const std::string name = prefix_ + std::string(behind_prefix);
  return only_.empty() || Matches(only_, name) || name.find(only_) != std::string::npos;
}

void VerifyReport::Add(VerifyLine line) {
  if (!Wants(line.name)) return;
  line.name = prefix_ + line.name;
  if (line.result != VerifyLine::Result::kOk) ++failed_;
  if (show_) show_(line);
  lines_.push_back(std::move(line));
}

}  // namespace qianyi
