#include <fcntl.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <exception>
#include <iostream>
#include <string>

#include "CLI/CLI.hpp"
#include "cli/command.h"

namespace {

// Files that we open must not become our standard streams; writing to a closed output must fail.
void OccupyStandardStreams() {
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (fcntl(fd, F_GETFD) == -1 && open("/dev/null", O_RDONLY) == -1) return;
  }
}

// 2 for a bad command line, 1 for work that failed.
int Main(int argc, char** argv) {
  CLI::App app(
      "Qianyi: runs GLM models far larger than memory, by streaming their weights.\n"
      "Sizes take MiB, GiB, MB, GB; rates GB/s. Results go to standard output, all else to "
      "standard error.");
  app.name("qianyi");
  app.set_version_flag("--version", std::string("qianyi ") + QIANYI_VERSION);
  app.require_subcommand(0, 1);
  app.failure_message([](const CLI::App* at, const CLI::Error& error) {
    const auto commands = at->get_subcommands();
    return std::string("qianyi: ") + error.what() + "; see qianyi " +
           (commands.empty() ? "" : commands[0]->get_name() + " ") + "--help\n";
  });
  qianyi::Run run;
  qianyi::AddServe(app, &run);
  qianyi::AddKeys(app, &run);
  qianyi::AddClient(app, &run);
  qianyi::AddGenerate(app, &run);
  qianyi::AddConvert(app, &run);
  qianyi::AddSynth(app, &run);
  qianyi::AddPlan(app, &run);
  qianyi::AddVerify(app, &run);
  qianyi::AddBench(app, &run);
  qianyi::AddTokenize(app, &run);
  qianyi::AddScore(app, &run);
  qianyi::AddPaint(app, &run);
  qianyi::AddCaption(app, &run);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);  // prints help or the error, by kind
    if (code != 0) return 2;
    if (std::cout.flush()) return 0;
    std::fprintf(stderr, "qianyi: %s\n", std::string(qianyi::OutputError().message()).c_str());
    return 1;
  }
  if (!run) {
    std::fprintf(stderr, "qianyi: no command given; see qianyi --help\n");
    return 2;
  }
  absl::Status status = run();
  if (status.ok() && (std::fflush(stdout) != 0 || std::ferror(stdout) != 0)) {
    status = qianyi::OutputError();
  }
  if (status.ok()) return 0;
  const std::string message(status.message());
  std::fprintf(stderr, "qianyi: %s\n", message.c_str());
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  OccupyStandardStreams();
  // A closed pipe is an error of writing, not a reason to die without a word.
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGXFSZ, SIG_IGN);  // `ulimit -f` likewise
  try {
    return Main(argc, argv);
  } catch (const std::exception& error) {  // of the libraries; ours returns Status
    std::fprintf(stderr, "qianyi: %s\n", error.what());
    return 1;
  }
}
