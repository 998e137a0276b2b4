#include "runtime/verify/verify.h"

#include <cmath>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "cli/command.h"

namespace qianyi {
namespace {

struct Flags {
  std::vector<std::string> folders;
  std::string only;
};

void PrintLine(const VerifyLine& line) {
  const char* result = line.result == VerifyLine::Result::kOk     ? "ok"
                       : line.result == VerifyLine::Result::kFail ? "FAIL"
                                                                  : "UNKNOWN";
  std::printf("%-7s %-56s %10.3g  (tolerance %g)%s%s\n", result, line.name.c_str(),
              line.difference, line.tolerance, line.note.empty() ? "" : "  ", line.note.c_str());
}

absl::Status RunVerify(const Flags& flags) {
  int64_t lines = 0;
  int64_t failed = 0;
  std::string broken;
  for (const std::string& folder : flags.folders) {
    std::printf("%s\n", folder.c_str());
    VerifyReport report(flags.only, PrintLine);
    const absl::Status status = VerifyFolder(folder, report);
    if (!status.ok()) {
      std::fprintf(stderr, "qianyi: %s: %s\n", folder.c_str(),
                   std::string(status.message()).c_str());
      ++failed;
    } else if (report.lines().empty()) {
      std::fprintf(stderr, "qianyi: %s: nothing there is called '%s'\n", folder.c_str(),
                   flags.only.c_str());
      ++failed;
    }
    lines += static_cast<int64_t>(report.lines().size());
    failed += report.failed();
  }
  std::printf("%d of %d ok\n", static_cast<int>(lines - std::min(lines, failed)),
              static_cast<int>(lines));
  if (failed == 0) return absl::OkStatus();
  return absl::InternalError(
      absl::StrFormat("%d of %d expected values were not reproduced", failed, lines));
}

}  // namespace

void AddVerify(CLI::App& app, Run* run) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand(
      "verify", "replay fixtures made with the original model code and compare every number");
  command->add_option("FOLDER", flags->folders, "fixture folders")->required();
  command->add_option("--only", flags->only, "names to replay: a piece of them, or a glob")
      ->type_name("PATTERN");
  command->footer(
      "Exit status 1 when anything fails or was not replayed.\n"
      "Example:\n  qianyi verify tests/fixtures/glm-blocklm --only '*.greedy_tokens'");
  command->callback([=] { *run = [=] { return RunVerify(*flags); }; });
}

}  // namespace qianyi
