#include "runtime/verify/verify.h"

#include <cmath>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/command.h"

namespace qianyi {
namespace {

struct VerifyFlags {
  std::vector<std::string> folders;
  std::string only;
  std::string device = "cpu";
};

void PrintLine(const VerifyLine& line) {
  const char* result = line.result == VerifyLine::Result::kOk     ? "ok"
                       : line.result == VerifyLine::Result::kFail ? "FAIL"
                                                                  : "UNKNOWN";
  std::printf("%-7s %-56s %10.3g  (tolerance %g)%s%s\n", result, line.name.c_str(), line.difference,
              line.tolerance, line.note.empty() ? "" : "  ", line.note.c_str());
}

// Lines go to standard output under the folder's name; an error says why there are none or not all.
absl::Status ReplayFolder(const std::string& folder, VerifyReport& report) {
  const absl::Status status = VerifyFolder(folder, report);
  if (!status.ok()) {
    const bool named = absl::StartsWith(status.message(), folder);
    return absl::Status(status.code(),
                        absl::StrCat(named ? "" : folder, named ? "" : ": ", status.message()));
  }
  if (!report.lines().empty()) return absl::OkStatus();
  return absl::NotFoundError(absl::StrCat(folder, ": has nothing to replay of that name"));
}

absl::Status RunVerify(const VerifyFlags& flags) {
  VerifyReport::Device device;
  if (flags.device == "cuda") {
    RunFlags cuda;
    cuda.device = flags.device;
    if (absl::Status status = cuda.Check(); !status.ok()) return status;
    device.backend = cuda.options.backend;
  }
  int64_t lines = 0;
  int64_t failed = 0;
  absl::Status broken;
  for (const std::string& folder : flags.folders) {
    VerifyReport report(flags.only, [&, first = true](const VerifyLine& line) mutable {
      if (first) std::printf("%s\n", folder.c_str());
      first = false;
      PrintLine(line);
    });
    report.RunOn(device);
    const absl::Status status = ReplayFolder(folder, report);
    if (!broken.ok()) std::fprintf(stderr, "qianyi: %s\n", std::string(broken.message()).c_str());
    if (!status.ok()) broken = status;
    lines += static_cast<int64_t>(report.lines().size());
    failed += report.failed();
  }
  if (lines > 0) {
    std::printf("%d of %d ok\n", static_cast<int>(lines - failed), static_cast<int>(lines));
  }
  if (failed == 0) return broken;
  if (!broken.ok()) std::fprintf(stderr, "qianyi: %s\n", std::string(broken.message()).c_str());
  return absl::InternalError(
      absl::StrFormat("%d of %d expected values were not reproduced", failed, lines));
}

}  // namespace

void AddVerify(CLI::App& app, Run* run) {
  auto flags = std::make_shared<VerifyFlags>();
  CLI::App* command = app.add_subcommand(
      "verify", "replay fixtures made with the original model code and compare every number");
  command->add_option("FOLDER", flags->folders, "fixture folders")->required();
  command->add_option("--only", flags->only, "names to replay: a piece of them, or a glob")
      ->type_name("PATTERN");
  command->add_option("--device", flags->device, "cpu or cuda")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  command->footer(
      "Exit status 1 when anything fails or was not replayed.\n"
      "Example:\n  qianyi verify tests/fixtures/glm-blocklm --only '*.greedy_tokens'");
  command->callback([=] { *run = [=] { return RunVerify(*flags); }; });
}

}  // namespace qianyi
