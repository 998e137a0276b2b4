#include "server/log.h"

#include <algorithm>
#include <chrono>
#include <ctime>
#include <utility>

#include "absl/strings/str_format.h"

namespace qianyi {
namespace {

using nlohmann::ordered_json;

constexpr size_t kMostBytes = 8 << 20;  // of lines that wait to be written

// UTC, to the millisecond: "2026-01-31T12:34:56.789Z".
std::string Now() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const int64_t milliseconds = std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
  const std::time_t seconds = milliseconds / 1000;
  std::tm time;
  gmtime_r(&seconds, &time);
  char text[40];
  const size_t end = std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &time);
  return absl::StrFormat("%s.%03dZ", std::string(text, end), milliseconds % 1000);
}

std::string Dump(const ordered_json& value) {
  return value.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

// Quoted where it would not be one word.
std::string Word(const ordered_json& value) {
  if (!value.is_string()) return Dump(value);
  const std::string& text = value.get_ref<const std::string&>();
  const bool plain = !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
    return c > ' ' && c != '"' && c != '=' && c != '\\' && c != 0x7f;
  });
  return plain ? text : Dump(value);
}

bool IsHex(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

bool IsZero(std::string_view text) { return text.find_first_not_of('0') == text.npos; }

}  // namespace

absl::StatusOr<LogFormat> ParseLogFormat(std::string_view name) {
  if (name == "off") return LogFormat::kOff;
  if (name == "text") return LogFormat::kText;
  if (name == "json") return LogFormat::kJson;
  return absl::InvalidArgumentError(
      absl::StrFormat("--log-format %s: it must be off, text or json", name));
}

Log::Log(const LogOptions& options, std::FILE* to)
    : options_(options), to_(to), thread_([this] { Loop(); }) {}

Log::~Log() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void Log::Request(const char* event, const ordered_json& members) {
  if (requests()) Push(Line("info", event, members));
}

void Log::Say(const char* level, std::string_view sentence) {
  if (options_.format == LogFormat::kJson) {
    Push(Line(level, "notice", {{"message", sentence}}));
    return;
  }
  const bool warns = std::string_view(level) == "warning";
  Push(absl::StrFormat("qianyi: %s%s\n", warns ? "warning: " : "", sentence));
}

std::string Log::Line(const char* level, const char* event, const ordered_json& members) const {
  std::string line;
  if (options_.format == LogFormat::kJson) {
    ordered_json whole = {{"time", Now()}, {"level", level}, {"event", event}};
    for (const auto& [name, value] : members.items()) {
      if (!value.is_null()) whole[name] = value;
    }
    line = Dump(whole);
  } else {
    line = absl::StrFormat("%s %s", Now(), event);
    for (const auto& [name, value] : members.items()) {
      if (!value.is_null()) absl::StrAppendFormat(&line, " %s=%s", name, Word(value));
    }
  }
  return line + "\n";
}

void Log::Push(std::string line) {
  {
    std::lock_guard lock(mutex_);
    if (bytes_ + line.size() > kMostBytes) {
      ++dropped_;
      return;
    }
    bytes_ += line.size();
    lines_.push_back(std::move(line));
  }
  wake_.notify_one();
}

void Log::Flush() {
  std::unique_lock lock(mutex_);
  written_.wait(lock, [this] { return lines_.empty() && !writing_; });
}

void Log::Loop() {
  std::deque<std::string> lines;
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [this] { return stop_ || !lines_.empty(); });
    if (lines_.empty()) return;
    lines.swap(lines_);
    writing_ = true;
    bytes_ = 0;
    const uint64_t dropped = std::exchange(dropped_, 0);
    lock.unlock();
    if (dropped > 0) lines.push_back(Line("warning", "dropped", {{"lines", dropped}}));
    for (const std::string& line : lines) std::fwrite(line.data(), 1, line.size(), to_);
    std::fflush(to_);
    lines.clear();
    lock.lock();
    writing_ = false;
    written_.notify_all();
  }
}

Trace ParseTraceParent(std::string_view header) {
  // version "-" trace-id "-" parent-id "-" flags; later versions may have more behind.
  if (header.size() < 55 || header[2] != '-' || header[35] != '-' || header[52] != '-') return {};
  const std::string_view version = header.substr(0, 2), trace = header.substr(3, 32),
                         parent = header.substr(36, 16), flags = header.substr(53, 2);
  const bool good = IsHex(version) && version != "ff" && IsHex(trace) && !IsZero(trace) &&
                    IsHex(parent) && !IsZero(parent) && IsHex(flags) &&
                    (header.size() == 55 || (version != "00" && header[55] == '-'));
  if (!good) return {};
  return {std::string(trace), std::string(parent)};
}

}  // namespace qianyi
