#include "tests/support/process.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace qianyi::testing {
namespace {

int UnnamedFile() {
  std::string path = (std::filesystem::temp_directory_path() / "qianyi_output_XXXXXX").string();
  const int fd = mkostemp(path.data(), O_CLOEXEC);
  EXPECT_GE(fd, 0) << path;
  unlink(path.c_str());
  return fd;
}

std::string Content(int fd) {
  std::string text;
  char buffer[4096];
  for (off_t at = 0;;) {
    const ssize_t got = pread(fd, buffer, sizeof(buffer), at);
    if (got <= 0) return text;
    text.append(buffer, static_cast<size_t>(got));
    at += got;
  }
}

// Later settings win, so what the user set stays otherwise.
void ReportWithOwnExitCode() {
  for (const char* name : {"ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS"}) {
    const char* set = getenv(name);
    const std::string value = absl::StrCat(set == nullptr ? "" : set, set == nullptr ? "" : ":",
                                           "exitcode=", kSanitizerExitCode);
    setenv(name, value.c_str(), 1);
  }
}

}  // namespace

Process::Process(const std::vector<std::string>& command, const ProcessOptions& options)
    : timeout_seconds_(options.timeout_seconds), out_fd_(UnnamedFile()), err_fd_(UnnamedFile()) {
  ReportWithOwnExitCode();
  std::vector<char*> arguments;
  for (const std::string& argument : command) {
    arguments.push_back(const_cast<char*>(argument.c_str()));
  }
  arguments.push_back(nullptr);
  int pipe_fds[2] = {-1, -1};
  if (!options.keep_out) {
    EXPECT_EQ(pipe2(pipe_fds, O_CLOEXEC), 0);
  }
  pid_ = fork();
  if (pid_ == 0) {
    const int nothing = open("/dev/null", O_RDONLY);
    dup2(nothing, STDIN_FILENO);
    dup2(options.keep_out ? out_fd_ : pipe_fds[1], STDOUT_FILENO);
    dup2(err_fd_, STDERR_FILENO);
    close(pipe_fds[0]);
    signal(SIGPIPE, SIG_DFL);
    if (options.prepare) options.prepare();
    execv(arguments[0], arguments.data());
    perror(arguments[0]);
    _exit(126);
  }
  EXPECT_GT(pid_, 0) << "cannot start " << command[0];
  for (const int fd : pipe_fds) {
    if (fd >= 0) close(fd);
  }
}

Process::~Process() {
  if (!ended_ && pid_ > 0) {
    Signal(SIGKILL);
    Reap(0);
  }
  close(out_fd_);
  close(err_fd_);
}

void Process::Signal(int signal) const { kill(pid_, signal); }

bool Process::Reap(int flags) {
  if (ended_) return true;
  int status = 0;
  rusage usage{};
  if (wait4(pid_, &status, flags, &usage) != pid_) return false;
  ended_ = true;
  if (WIFEXITED(status)) result_.exit_code = WEXITSTATUS(status);
  if (WIFSIGNALED(status)) result_.signal = WTERMSIG(status);
  result_.peak_resident_bytes = static_cast<uint64_t>(usage.ru_maxrss) * 1024;
  return true;
}

bool Process::running() { return !Reap(WNOHANG); }

ProcessResult Process::Wait() {
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::duration<double>(timeout_seconds_);
  auto pause = std::chrono::microseconds(200);
  while (running()) {
    if (Clock::now() > end) {
      result_.timed_out = true;
      Signal(SIGKILL);
      Reap(0);
      break;
    }
    std::this_thread::sleep_for(pause);
    pause = std::min(pause * 2, std::chrono::microseconds(20000));
  }
  result_.out = Content(out_fd_);
  result_.err = Content(err_fd_);
  return result_;
}

ProcessResult RunProcess(const std::vector<std::string>& command, const ProcessOptions& options) {
  Process process(command, options);
  return process.Wait();
}

}  // namespace qianyi::testing
