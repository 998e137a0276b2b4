// Runs a program as a user's shell would, and tells how it ended.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "kernels/sanitizers.h"

namespace qianyi::testing {

struct ProcessResult {
  int exit_code = -1;  // -1 when a signal ended it
  int signal = 0;
  std::string out;
  std::string err;
  uint64_t peak_resident_bytes = 0;
  bool timed_out = false;  // it was killed then
};

struct ProcessOptions {
  double timeout_seconds = 300;
  // Runs in the child just before the program does: limits, other files as standard streams.
  // The streams are set up already. Async-signal-safe calls only.
  std::function<void()> prepare;
  bool keep_out = true;  // false: nobody reads its standard output, which is a closed pipe
};

// A program that is running. Standard input is empty; outputs go to files, so that it never
// waits for a reader. One thread.
class Process {
 public:
  Process(const std::vector<std::string>& command, const ProcessOptions& options);
  ~Process();  // kills it if it still runs
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  void Signal(int signal) const;
  bool running();
  ProcessResult Wait();

 private:
  bool Reap(int flags);

  const double timeout_seconds_;
  pid_t pid_ = -1;
  int out_fd_ = -1;  // unnamed files
  int err_fd_ = -1;
  bool ended_ = false;
  ProcessResult result_;
};

ProcessResult RunProcess(const std::vector<std::string>& command,
                         const ProcessOptions& options = {});

// True where sanitizers make memory figures meaningless.
#if defined(QIANYI_ADDRESS_SANITIZER) || defined(QIANYI_THREAD_SANITIZER)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif
// What a sanitizer's finding makes a program exit with: no exit code of our own.
inline constexpr int kSanitizerExitCode = 97;

}  // namespace qianyi::testing
