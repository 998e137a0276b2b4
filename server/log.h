// What operators read: one line for each request and for each thing that they should know.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <deque>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace qianyi {

enum class LogFormat : uint8_t { kOff, kText, kJson };  // of requests; off: only notices
absl::StatusOr<LogFormat> ParseLogFormat(std::string_view name);

struct LogOptions {
  LogFormat format = LogFormat::kOff;
  bool prompts = false;  // what users wrote, too
};

// Thread-safe. Never waits for whoever reads the lines: a thread writes them, and where they come
// faster than that they are dropped, which a later line says.
class Log {
 public:
  explicit Log(const LogOptions& options, std::FILE* to = stderr);
  ~Log();  // once all is written

  bool requests() const { return options_.format != LogFormat::kOff; }
  bool prompts() const { return requests() && options_.prompts; }

  // `members` in their order: strings, numbers, null (left out) or any JSON.
  void Request(const char* event, const nlohmann::ordered_json& members);
  // A sentence: "qianyi: warning: …" where lines are text.
  void Notice(std::string_view sentence) { Say("info", sentence); }
  void Warning(std::string_view sentence) { Say("warning", sentence); }
  // Returns when all that came before is written.
  void Flush();

 private:
  void Say(const char* level, std::string_view sentence);
  std::string Line(const char* level, const char* event,
                   const nlohmann::ordered_json& members) const;
  void Push(std::string line);
  void Loop();

  const LogOptions options_;
  std::FILE* const to_;
  std::mutex mutex_;  // guards the rest
  std::condition_variable wake_;
  std::condition_variable written_;
  bool writing_ = false;
  std::deque<std::string> lines_;
  size_t bytes_ = 0;
  uint64_t dropped_ = 0;
  bool stop_ = false;
  std::thread thread_;
};

// The ids of a traceparent header (W3C Trace Context); empty where it is not one.
struct Trace {
  std::string trace_id;   // 32 hexadecimal digits
  std::string parent_id;  // 16
};
Trace ParseTraceParent(std::string_view header);

}  // namespace qianyi
