#include "runtime/memory_size.h"

#include <sys/sysinfo.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <fstream>
#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace qianyi {
namespace {

constexpr double kMaxSize = 1152921504606846976.0;  // 2^60

// Splits "1.5 GiB" into number and unit and multiplies; false when either is unknown.
bool ParseAmount(std::string_view text, double* value) {
  static constexpr std::pair<std::string_view, double> kUnits[] = {
      {"", 1},          {"B", 1},           {"KB", 1e3},          {"MB", 1e6},  {"GB", 1e9},
      {"TB", 1e12},     {"KiB", 1024.0},    {"MiB", 1048576.0},   {"GiB", 1073741824.0},
      {"TiB", 1099511627776.0}};
  text = absl::StripAsciiWhitespace(text);
  size_t digits = 0;
  while (digits < text.size() && (std::isdigit(static_cast<unsigned char>(text[digits])) != 0 ||
                                  text[digits] == '.')) {
    ++digits;
  }
  const std::string_view unit = absl::StripAsciiWhitespace(text.substr(digits));
  double number = 0;
  if (digits == 0 || !absl::SimpleAtod(text.substr(0, digits), &number)) return false;
  for (const auto& [name, factor] : kUnits) {
    if (absl::EqualsIgnoreCase(unit, name)) {
      *value = number * factor;
      return true;
    }
  }
  return false;
}

// Reads one number of a control file; `none` when it is absent or says "max".
uint64_t ReadLimit(const std::string& path, uint64_t none) {
  std::ifstream file(path);
  std::string text;
  uint64_t value = 0;
  if (!(file >> text) || !absl::SimpleAtoi(text, &value)) return none;
  return value;
}

// The tightest limit on the way from our cgroup up to the root.
uint64_t CgroupLimit(const std::string& mount, std::string path, const std::string& name,
                     uint64_t none) {
  uint64_t limit = none;
  for (;;) {
    limit = std::min(limit, ReadLimit(mount + path + "/" + name, none));
    const size_t slash = path.rfind('/');
    if (slash == std::string::npos || path.empty()) return limit;
    path.resize(slash);
  }
}

uint64_t StatusField(std::string_view field) {
  std::ifstream file("/proc/self/status");
  std::string line;
  while (std::getline(file, line)) {
    if (!absl::StartsWith(line, field)) continue;
    uint64_t kib = 0;
    const std::string_view rest = absl::StripAsciiWhitespace(
        std::string_view(line).substr(field.size()));
    if (absl::SimpleAtoi(rest.substr(0, rest.find(' ')), &kib)) return kib * 1024;
  }
  return 0;
}

}  // namespace

absl::StatusOr<uint64_t> ParseSize(std::string_view text) {
  double value = 0;
  if (!ParseAmount(text, &value) || value > kMaxSize) {
    return absl::InvalidArgumentError(absl::StrCat(
        "'", text, "' is not a size between 0 and 2^60 bytes; write for example 3GiB, 512MB or 4096"));
  }
  return static_cast<uint64_t>(value);
}

absl::StatusOr<double> ParseRate(std::string_view text) {
  std::string_view amount = absl::StripAsciiWhitespace(text);
  double value = 0;
  const bool per_second = absl::EndsWith(amount, "/s");
  if (per_second) amount.remove_suffix(2);
  if (!per_second || !ParseAmount(amount, &value) || value <= 0 || value > kMaxSize) {
    return absl::InvalidArgumentError(absl::StrCat(
        "'", text, "' is not a positive rate; write for example 25GB/s or 800MB/s"));
  }
  return value;
}

std::string FormatSize(uint64_t bytes) {
  if (bytes >= (1ull << 30)) return absl::StrFormat("%.2f GiB", bytes / 1073741824.0);
  if (bytes >= (1ull << 20)) return absl::StrFormat("%.1f MiB", bytes / 1048576.0);
  if (bytes >= (1ull << 10)) return absl::StrFormat("%.1f KiB", bytes / 1024.0);
  return absl::StrFormat("%d B", bytes);
}

uint64_t AvailableMemoryBytes() {
  struct sysinfo info;
  if (sysinfo(&info) != 0) return 0;
  uint64_t limit = static_cast<uint64_t>(info.totalram) * info.mem_unit;
  std::ifstream groups("/proc/self/cgroup");
  std::string line;
  while (std::getline(groups, line)) {  // "id:controllers:path"
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string_view controllers(line.data() + first + 1, second - first - 1);
    const std::string path = line.substr(second + 1);
    if (controllers.empty()) {
      limit = CgroupLimit("/sys/fs/cgroup", path, "memory.max", limit);
    } else if (absl::StrContains(absl::StrCat(",", controllers, ","), ",memory,")) {
      limit = CgroupLimit("/sys/fs/cgroup/memory", path, "memory.limit_in_bytes", limit);
    }
  }
  return limit;
}

uint64_t ResidentBytes() { return StatusField("VmRSS:"); }
uint64_t PeakResidentBytes() { return StatusField("VmHWM:"); }

}  // namespace qianyi
