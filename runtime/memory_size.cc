#include "runtime/memory_size.h"

#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <fstream>
#include <string>
#include <utility>

#include "absl/strings/str_format.h"

namespace qianyi {
namespace {

constexpr double kMaxSize = 1152921504606846976.0;  // 2^60

std::string_view Trim(std::string_view text) {
  const size_t first = text.find_first_not_of(" \t\n");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\n") - first + 1);
}

bool EqualsIgnoringCase(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](unsigned char x, unsigned char y) {
    return std::tolower(x) == std::tolower(y);
  });
}

template <typename Number>
bool ParseNumber(std::string_view text, Number* value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *value);
  return error == std::errc() && end == text.data() + text.size();
}

// Splits "1.5 GiB" into number and unit and multiplies; false when either is unknown.
bool ParseAmount(std::string_view text, double* value) {
  static constexpr std::pair<std::string_view, double> kUnits[] = {{"", 1},
                                                                   {"B", 1},
                                                                   {"KB", 1e3},
                                                                   {"MB", 1e6},
                                                                   {"GB", 1e9},
                                                                   {"TB", 1e12},
                                                                   {"KiB", 1024.0},
                                                                   {"MiB", 1048576.0},
                                                                   {"GiB", 1073741824.0},
                                                                   {"TiB", 1099511627776.0}};
  text = Trim(text);
  size_t digits = 0;
  while (digits < text.size() &&
         (std::isdigit(static_cast<unsigned char>(text[digits])) != 0 || text[digits] == '.')) {
    ++digits;
  }
  const std::string_view unit = Trim(text.substr(digits));
  double number = 0;
  if (digits == 0 || !ParseNumber(text.substr(0, digits), &number)) return false;
  for (const auto& [name, factor] : kUnits) {
    if (EqualsIgnoringCase(unit, name)) {
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
  if (!(file >> text) || !ParseNumber(text, &value)) return none;
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
    if (!line.starts_with(field)) continue;
    uint64_t kib = 0;
    const std::string_view rest = Trim(std::string_view(line).substr(field.size()));
    if (ParseNumber(rest.substr(0, rest.find(' ')), &kib)) return kib * 1024;
  }
  return 0;
}

}  // namespace

absl::StatusOr<uint64_t> ParseSize(std::string_view text) {
  double value = 0;
  if (!ParseAmount(text, &value) || value > kMaxSize) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "'%s' is not a size between 0 and 2^60 bytes; write for example 3GiB, 512MB or 4096",
        text));
  }
  return static_cast<uint64_t>(value);
}

absl::StatusOr<double> ParseRate(std::string_view text) {
  std::string_view amount = Trim(text);
  double value = 0;
  const bool per_second = amount.ends_with("/s");
  if (per_second) amount.remove_suffix(2);
  if (!per_second || !ParseAmount(amount, &value) || value <= 0 || value > kMaxSize) {
    return absl::InvalidArgumentError(
        absl::StrFormat("'%s' is not a positive rate; write for example 25GB/s or 800MB/s", text));
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
    const std::string controllers =
        absl::StrFormat(",%s,", line.substr(first + 1, second - first - 1));
    const std::string path = line.substr(second + 1);
    if (controllers == ",,") {
      limit = CgroupLimit("/sys/fs/cgroup", path, "memory.max", limit);
    } else if (controllers.find(",memory,") != std::string::npos) {
      limit = CgroupLimit("/sys/fs/cgroup/memory", path, "memory.limit_in_bytes", limit);
    }
  }
  return limit;
}

uint64_t ResidentBytes() { return StatusField("VmRSS:"); }
uint64_t PeakResidentBytes() { return StatusField("VmHWM:"); }

void GiveBack(std::byte* begin, uint64_t bytes) {
  if (bytes > 0) madvise(begin, bytes, MADV_DONTNEED);
}

}  // namespace qianyi
