#include "runtime/known_rates.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "nlohmann/json.hpp"
#include "runtime/measure.h"
#include "runtime/memory_size.h"

namespace qianyi {
namespace {

using nlohmann::json;

std::string Today() {
  const std::time_t now = std::time(nullptr);
  std::tm utc = {};
  gmtime_r(&now, &utc);
  char day[16];
  std::strftime(day, sizeof(day), "%Y-%m-%d", &utc);
  return day;
}

// The whole file, or an empty object: a cache is nobody's to repair.
json ReadJson(const std::string& path) {
  std::ifstream stream(path);
  json read = json::parse(stream, nullptr, /*allow_exceptions=*/false);
  return read.is_object() ? read : json::object();
}

// Under a name of its own first, so that whoever reads meanwhile sees one or the other.
void WriteJson(const json& value, const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), error);
  const std::string temporary = absl::StrCat(path, ".", getpid());
  std::ofstream stream(temporary);
  stream << value.dump(1, ' ', false, json::error_handler_t::replace) << "\n";
  stream.close();
  if (stream.good()) std::filesystem::rename(temporary, path, error);
  if (!stream.good() || error) std::filesystem::remove(temporary, error);
}

// The value behind "name : " in /proc/cpuinfo, of the first processor.
std::string ProcessorField(const std::string& name) {
  std::ifstream stream("/proc/cpuinfo");
  for (std::string line; std::getline(stream, line);) {
    const size_t colon = line.find(':');
    if (colon == std::string::npos || line.compare(0, name.size(), name) != 0) continue;
    if (absl::StripAsciiWhitespace(line.substr(0, colon)) != name) continue;
    return std::string(absl::StripAsciiWhitespace(line.substr(colon + 1)));
  }
  return "?";
}

std::string FormatText(PackedFormat format) {
  constexpr const char* kNames[] = {"f32", "f16", "bf16", "int8", "int4"};
  const std::string name = kNames[static_cast<int>(format.dtype)];
  return format.group > 0 ? absl::StrCat(name, " in groups of ", format.group) : name;
}

// "259:1": the disk that a file lies on.
std::string DiskOf(const std::string& path) {
  struct stat status = {};
  if (stat(path.c_str(), &status) != 0) return path;
  return absl::StrCat(major(status.st_dev), ":", minor(status.st_dev));
}

}  // namespace

std::string KnownRates::DefaultFile() {
  const char* const cache = std::getenv("XDG_CACHE_HOME");
  if (cache != nullptr && *cache == '/') return absl::StrCat(cache, "/qianyi/rates.json");
  const char* const home = std::getenv("HOME");
  if (home == nullptr || *home != '/') return "";
  return absl::StrCat(home, "/.cache/qianyi/rates.json");
}

KnownRates::KnownRates(std::string file, std::string machine, Measures measures)
    : file_(std::move(file)), machine_(std::move(machine)), measures_(measures) {
  if (file_.empty() || measures_ == Measures::kAll) return;
  const json all = ReadJson(file_);
  const auto mine = all.find(machine_);
  if (mine == all.end() || !mine->is_object()) return;
  for (const auto& [name, rate] : mine->items()) {
    const auto value = rate.find("per_second"), day = rate.find("measured");
    if (value == rate.end() || !value->is_number() || day == rate.end() || !day->is_string()) {
      continue;
    }
    if (value->get<double>() > 0) known_[name] = {value->get<double>(), day->get<std::string>()};
  }
}

KnownRates::~KnownRates() {
  if (file_.empty() || measured_.empty()) return;
  json all = ReadJson(file_);  // anew: somebody may have written since
  if (!all[machine_].is_object()) all[machine_] = json::object();
  for (const auto& [name, rate] : measured_) {
    all[machine_][name] = {{"per_second", rate.value}, {"measured", rate.day}};
  }
  WriteJson(all, file_);
}

double KnownRates::Get(const std::string& name, const std::function<double()>& measure) {
  if (const auto now = measured_.find(name); now != measured_.end()) return now->second.value;
  if (const auto before = known_.find(name); before != known_.end()) {
    const std::string& day = before->second.day;
    if (oldest_day_.empty() || day < oldest_day_) oldest_day_ = day;
    return before->second.value;
  }
  if (measures_ == Measures::kNothing) return 0;
  const double value = measure();
  if (value > 0) measured_[name] = {value, Today()};
  return value;
}

std::string MachineName() {
  return absl::StrFormat("%s, family %s model %s, %d processors, %s, %d GiB",
                         ProcessorField("model name"), ProcessorField("cpu family"),
                         ProcessorField("model"), std::thread::hardware_concurrency(),
                         Cpu().variant, (AvailableMemoryBytes() + (uint64_t{1} << 29)) >> 30);
}

std::string WeightsPath(const ModelFile& file) {
  return file.files.empty() || file.files[0].rfind("synth:", 0) == 0 ? "" : file.files[0];
}

absl::StatusOr<Rates> RatesOf(KnownRates& known, const RatesWanted& wanted, PackedFormat format,
                              int threads, const Backend* device, const std::string& path) {
  const std::string with = absl::StrCat(" with ", threads, " threads");
  const std::string name(device != nullptr ? device->variant : "");
  Rates rates;
  if (wanted.host_bandwidth) {
    rates.host_bandwidth = known.Get("RAM" + with, [&] { return MeasureHostBandwidth(threads); });
  }
  if (wanted.device && device != nullptr) {
    rates.link = known.Get("link to " + name,
                           [&] { return MeasureLink(*device, LinkDirection::kToDevice); });
    rates.link_back = known.Get("link from " + name,
                                [&] { return MeasureLink(*device, LinkDirection::kToHost); });
    rates.device_bandwidth =
        known.Get("memory of " + name, [&] { return MeasureDeviceBandwidth(*device); });
  }
  if (wanted.compute) {
    rates.compute = known.Get(absl::StrCat("products with ", FormatText(format),
                                           device != nullptr ? " on " + name : with),
                              [&] {
                                return device != nullptr ? MeasureDeviceCompute(*device, format)
                                                         : MeasureCompute(format, threads);
                              });
  }
  if (!wanted.disk || path.empty()) return rates;
  absl::Status status;
  rates.disk = known.Get("disk " + DiskOf(path), [&] {
    const absl::StatusOr<double> measured = MeasureDisk(path);
    status = measured.status();
    return measured.value_or(0);
  });
  if (!status.ok()) return status;
  return rates;
}

}  // namespace qianyi
