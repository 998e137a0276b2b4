#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>

#include "cli/command.h"
#include "nlohmann/json.hpp"
#include "runtime/loaded_model.h"
#include "runtime/measure.h"
#include "runtime/storage/bench_io.h"

namespace qianyi {
namespace {

struct IoBenchFlags {
  std::string path;
  BenchIoOptions options;
  uint64_t chunk_bytes = kReadChunkBytes;
  std::string reader = "auto";
  bool json = false;
};

absl::Status RunBenchIo(IoBenchFlags flags) {
  flags.options.chunk_bytes = flags.chunk_bytes;
  flags.options.kind = flags.reader == "uring"   ? ReaderKind::kUring
                       : flags.reader == "pread" ? ReaderKind::kPread
                                                 : ReaderKind::kAuto;
  absl::StatusOr<IoReport> report = BenchIo(flags.path, flags.options);
  if (!report.ok()) return report.status();
  if (flags.json) {
    const nlohmann::json json = {{"file", flags.path},
                                 {"reader", report->reader},
                                 {"chunk_bytes", report->chunk_bytes},
                                 {"depth", report->depth},
                                 {"buffer_bytes", report->buffer_bytes},
                                 {"bytes", report->bytes},
                                 {"seconds", report->seconds},
                                 {"gb_per_second", report->gb_per_second()},
                                 {"cpu_seconds_per_gb", report->cpu_seconds_per_gb()}};
    std::printf("%s\n", json.dump(1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
  } else {
    std::printf("%.3f GB/s  (%s, %llu-byte reads, depth %d, %.3f CPU s/GB)\n",
                report->gb_per_second(), report->reader.c_str(),
                static_cast<unsigned long long>(report->chunk_bytes), report->depth,
                report->cpu_seconds_per_gb());
  }
  return absl::OkStatus();
}

absl::Status RunBenchMemory(int threads, bool json) {
  threads = WorkerThreads(threads);
  const double rate = MeasureMemoryReads(threads) / 1e9;
  if (rate == 0) return absl::ResourceExhaustedError("there is no GiB of memory to read");
  if (json) {
    std::printf("{\n \"threads\": %d,\n \"gb_per_second\": %.3f\n}\n", threads, rate);
  } else {
    std::printf("%.3f GB/s  (%d threads)\n", rate, threads);
  }
  return absl::OkStatus();
}

void AddBenchMemory(CLI::App* bench, Run* run) {
  struct Memory {
    int threads = 0;
    bool json = false;
  };
  auto flags = std::make_shared<Memory>();
  CLI::App* command = bench->add_subcommand("memory", "read memory as fast as a plain loop can");
  command->add_option("--threads", flags->threads, "that read [one per core]")
      ->check(CLI::Range(0, 1024));
  command->add_flag("--json", flags->json, "print JSON");
  command->footer("Example:\n  qianyi bench memory --json");
  command->callback([=] { *run = [=] { return RunBenchMemory(flags->threads, flags->json); }; });
}

}  // namespace

void AddBench(CLI::App& app, Run* run) {
  auto flags = std::make_shared<IoBenchFlags>();
  CLI::App* bench = app.add_subcommand("bench", "measure this machine");
  bench->require_subcommand(1);
  AddBenchMemory(bench, run);
  AddBenchDecode(*bench, run);
  CLI::App* command = bench->add_subcommand("io", "read a file as weights are read");
  command->add_option("FILE", flags->path, "best a large one, such as model.safetensors")
      ->required();
  command->add_option("--depth", flags->options.depth, "reads under way at once")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  AddSize(*command, "--chunk", &flags->chunk_bytes, "of one read [1MiB]");
  AddSizeOrNone(*command, "--buffer", &flags->options.buffer_bytes,
                "read into so much memory in turn, as a ring does");
  AddSizeOrNone(*command, "--max-bytes", &flags->options.max_bytes, "stop after so many");
  command->add_option("--reader", flags->reader, "auto, uring or pread")
      ->check(CLI::IsMember({"auto", "uring", "pread"}))
      ->capture_default_str();
  command->add_flag("--json", flags->json, "print JSON");
  command->footer("Example:\n  qianyi bench io models/glm-4-9b/model.safetensors --json");
  command->callback([=] { *run = [=] { return RunBenchIo(*flags); }; });
}

}  // namespace qianyi
