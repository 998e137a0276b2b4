#include <csignal>
#include <cstdio>
#include <exception>
#include <string>

#include "CLI/CLI.hpp"
#include "cli/command.h"

namespace {

// 2 for a bad command line, 1 for work that failed.
int Main(int argc, char** argv) {
  CLI::App app(
      "Qianyi: runs GLM models far larger than memory, by streaming their weights.\n"
      "Sizes take MiB, GiB, MB, GB; rates GB/s. Results go to standard output, all else to "
      "standard error.");
  app.name("qianyi");
  app.set_version_flag("--version", std::string("qianyi ") + QIANYI_VERSION);
  app.require_subcommand(1);
  qianyi::Run run;
  qianyi::AddGenerate(app, &run);
  qianyi::AddConvert(app, &run);
  qianyi::AddSynth(app, &run);
  qianyi::AddPlan(app, &run);
  qianyi::AddVerify(app, &run);
  qianyi::AddBench(app, &run);
  qianyi::AddTokenize(app, &run);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);  // prints help or the error, by kind
    return code == 0 ? 0 : 2;
  }
  // A closed pipe is an error of writing, not a reason to die without a word.
  std::signal(SIGPIPE, SIG_IGN);
  const absl::Status status = run();
  if (std::fflush(stdout) != 0 && status.ok()) {
    std::fprintf(stderr, "qianyi: cannot write to standard output\n");
    return 1;
  }
  if (status.ok()) return 0;
  const std::string message(status.message());
  std::fprintf(stderr, "qianyi: %s\n", message.c_str());
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return Main(argc, argv);
  } catch (const std::exception& error) {  // of the libraries; ours returns Status
    std::fprintf(stderr, "qianyi: %s\n", error.what());
    return 1;
  }
}
