// What the commands of `qianyi` share. One file per command; results go to standard output,
// everything else to standard error.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/loaded_model.h"
#include "runtime/model_spec.h"
#include "runtime/storage/model_file.h"
#include "runtime/storage/progress.h"

namespace qianyi {

// A command's work after its flags were read: OK, or the sentence the user gets.
using Run = std::function<absl::Status()>;
// Called while the program starts: adds a subcommand whose callback sets `run`.
void AddGenerate(CLI::App& app, Run* run);
void AddConvert(CLI::App& app, Run* run);
void AddSynth(CLI::App& app, Run* run);
void AddPlan(CLI::App& app, Run* run);
void AddVerify(CLI::App& app, Run* run);
void AddBench(CLI::App& app, Run* run);
void AddBenchDecode(CLI::App& bench, Run* run);
void AddTokenize(CLI::App& app, Run* run);
void AddScore(CLI::App& app, Run* run);
void AddServe(CLI::App& app, Run* run);
void AddPaint(CLI::App& app, Run* run);
void AddCaption(CLI::App& app, Run* run);
void AddKeys(CLI::App& app, Run* run);
void AddClient(CLI::App& app, Run* run);

// --model DIR | --synth CONFIG --dtype … --group N --synth-seed S.
struct ModelFlags {
  std::string folder;
  std::string synth;
  std::string dtype = "int4";
  std::optional<int> group;
  uint64_t synth_seed = 0;
  double router_skew = 0;

  void Add(CLI::App& command, const char* config_flag);
  absl::StatusOr<ModelFile> Open() const;
};

// Memory, threads and the shape of steps.
struct RunFlags {
  LoadOptions options;
  std::string device = "cpu";
  uint64_t device_bytes = 0;
  std::string numerics = "exact";

  void Add(CLI::App& command);
  // For commands that generate text.
  void AddGuesses(CLI::App& command);
  // Sets what the flags mean in `options`.
  absl::Status Check();
  // With --numerics fast beside a device, for models like this one: measures which share of the
  // rows in RAM the processor computes, in steps of options.batch tokens, and whether large batches
  // are faster by cuBLASLt. Says on standard error what is in force.
  void TuneFast(const ModelFile& file);
};

// "NAME=DIR" of --adapter.
absl::StatusOr<NamedAdapter> ParseAdapterFlag(const std::string& text);

// Adapters of one model, and which of them prompts run with.
struct AdapterFlags {
  std::vector<std::string> adapters;
  std::vector<std::string> uses;

  void Add(CLI::App& command, const char* use_help);
  // The named ones, and in `options` room for them. Errors name the flag or the adapter.
  absl::StatusOr<std::vector<NamedAdapter>> Parse(const ModelFile& file,
                                                  LoadOptions* options) const;
  // After they were loaded: what each of `count` prompts runs with; null is the model alone.
  absl::StatusOr<std::vector<std::shared_ptr<const Adapter>>> Choose(const AdapterSet& loaded,
                                                                     size_t count) const;
};

// Flags whose values have units: "3GiB", "25GB/s".
CLI::Option* AddSize(CLI::App& command, const std::string& name, uint64_t* bytes,
                     const std::string& description);  // not 0
CLI::Option* AddSizeOrNone(CLI::App& command, const std::string& name, uint64_t* bytes,
                           const std::string& description);
CLI::Option* AddRate(CLI::App& command, const std::string& name, double* bytes_per_second,
                     const std::string& description);
CLI::Option* AddSeed(CLI::App& command, const std::string& name, uint64_t* seed,
                     const std::string& description);
// So many sequences, at most `most`, or "auto": kAutoBatch.
CLI::Option* AddBatch(CLI::App& command, int64_t* batch, int64_t most,
                      const std::string& description);
CLI::Option* AddRouterSkew(CLI::App& command, double* skew);
void AddFormat(CLI::App& command, std::string* dtype, std::optional<int>* group);

// The model that a built-in name or the path of a config.json stands for.
absl::StatusOr<ModelSpec> DescribeNamed(const std::string& name_or_path);

// What to say when standard output takes no more.
absl::Status OutputError();

// A progress line on standard error: redrawn on a terminal, every tenth otherwise.
ProgressFn ShowProgress(const std::string& what);
void ShowFraction(const std::string& what, uint64_t done_bytes, uint64_t total_bytes);

}  // namespace qianyi
