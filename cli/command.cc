#include "cli/command.h"

#include <unistd.h>

#include <charconv>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "runtime/choose_batch.h"
#include "runtime/measure.h"
#include "runtime/memory_size.h"
#include "runtime/models/registry.h"
#include "runtime/storage/file_util.h"
#include "runtime/storage/format.h"
#include "runtime/storage/synth.h"

namespace qianyi {
namespace {

absl::StatusOr<uint64_t> ParsePositiveSize(std::string_view text) {
  absl::StatusOr<uint64_t> bytes = ParseSize(text);
  if (!bytes.ok() || *bytes > 0) return bytes;
  return absl::InvalidArgumentError(
      absl::StrFormat("'%s' is no room at all; write for example 3GiB", text));
}

// CLI11 would take -1 for 2^64 - 1.
absl::StatusOr<uint64_t> ParseSeed(std::string_view text) {
  uint64_t seed = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seed);
  if (error == std::errc() && end == text.data() + text.size()) return seed;
  return absl::InvalidArgumentError(
      absl::StrFormat("'%s' is not a whole number from 0 to 2^64 - 1", text));
}

absl::StatusOr<int64_t> ParseBatch(std::string_view text, int64_t most) {
  if (text == "auto") return kAutoBatch;
  int64_t batch = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), batch);
  const bool number = error == std::errc() && end == text.data() + text.size();
  if (number && batch >= 1 && batch <= most) return batch;
  return absl::InvalidArgumentError(
      absl::StrFormat("'%s' is neither a whole number from 1 to %d nor auto", text, most));
}

// config.json's text.
absl::StatusOr<std::string> ReadConfig(const std::string& name_or_path) {
  absl::StatusOr<std::string> builtin = BuiltinConfig(name_or_path);
  if (builtin.ok()) return builtin;
  std::error_code ignored;
  if (!std::filesystem::exists(name_or_path, ignored)) return builtin.status();
  const bool folder = std::filesystem::is_directory(name_or_path, ignored);
  return ReadTextFile(folder ? JoinPath(name_or_path, "config.json") : name_or_path, 16 << 20);
}

template <typename Value>
CLI::Option* AddParsed(CLI::App& command, const std::string& name, Value* value,
                       const std::string& description,
                       std::function<absl::StatusOr<Value>(std::string_view)> parse,
                       const char* type) {
  return command
      .add_option_function<std::string>(
          name,
          [=](const std::string& text) {
            absl::StatusOr<Value> parsed = parse(text);
            if (!parsed.ok()) {
              throw CLI::ValidationError(name, std::string(parsed.status().message()));
            }
            *value = *parsed;
          },
          description)
      ->type_name(type);
}

}  // namespace

CLI::Option* AddSize(CLI::App& command, const std::string& name, uint64_t* bytes,
                     const std::string& description) {
  return AddParsed<uint64_t>(command, name, bytes, description, ParsePositiveSize, "SIZE");
}

CLI::Option* AddSizeOrNone(CLI::App& command, const std::string& name, uint64_t* bytes,
                           const std::string& description) {
  return AddParsed<uint64_t>(command, name, bytes, description, ParseSize, "SIZE");
}

CLI::Option* AddSeed(CLI::App& command, const std::string& name, uint64_t* seed,
                     const std::string& description) {
  return AddParsed<uint64_t>(command, name, seed, description, ParseSeed, "N")
      ->default_str(std::to_string(*seed));
}

CLI::Option* AddRate(CLI::App& command, const std::string& name, double* bytes_per_second,
                     const std::string& description) {
  return AddParsed<double>(command, name, bytes_per_second, description, ParseRate, "RATE");
}

CLI::Option* AddBatch(CLI::App& command, int64_t* batch, int64_t most,
                      const std::string& description) {
  const auto parse = [most](std::string_view text) { return ParseBatch(text, most); };
  return AddParsed<int64_t>(command, "--batch", batch, description, parse, "N|auto")
      ->default_str(std::to_string(*batch));
}

CLI::Option* AddRouterSkew(CLI::App& command, double* skew) {
  return command
      .add_option(
          "--router-skew", *skew,
          "of invented routers: the expert of rank r is chosen in proportion to r^-S; 0 = as "
          "it comes")
      ->check([](const std::string& text) {  // CLI::Range lets NaN pass
        double value = 0;
        const bool good = absl::SimpleAtod(text, &value) && value >= 0 && value <= 8;
        return good ? std::string() : "'" + text + "' is not a number from 0 to 8";
      })
      ->type_name("S");
}

void AddFormat(CLI::App& command, std::string* dtype, std::optional<int>* group) {
  command.add_option("--dtype", *dtype, "of matrices and embeddings: f32, f16, bf16, int8, int4")
      ->capture_default_str()
      ->type_name("TYPE");
  command
      .add_option("--group", *group,
                  "columns that share a scale (int4 only): 32, 64, 128, or 0 for one scale per row "
                  "[32]")
      ->type_name("N");
}

void ModelFlags::Add(CLI::App& command, const char* config_flag) {
  auto* model =
      command.add_option("--model", folder, "folder that `qianyi convert` or `synth` made")
          ->type_name("DIR");
  auto* invented =
      command
          .add_option(config_flag, synth,
                      "a built-in shape or the path of a config.json, without weights at hand")
          ->type_name("NAME|FILE");
  model->excludes(invented);
  AddFormat(command, &dtype, &group);
  AddSeed(command, "--synth-seed", &synth_seed, "of invented weights");
  AddRouterSkew(command, &router_skew)->needs(invented);
}

absl::StatusOr<ModelFile> ModelFlags::Open() const {
  if (folder.empty() && synth.empty()) {
    return absl::InvalidArgumentError(
        "no model given; say --model DIR, or name a shape (see --help)");
  }
  if (!folder.empty()) return ModelFile::Open(folder);
  absl::StatusOr<ModelSpec> spec = DescribeNamed(synth);
  if (!spec.ok()) return spec.status();
  if (auto status = SetRouterSkew(router_skew, &*spec); !status.ok()) return status;
  absl::StatusOr<PackedFormat> format = ParseFormat(dtype, group);
  if (!format.ok()) return format.status();
  return ModelFile::Lay(*spec, *format, synth_seed);
}

void RunFlags::Add(CLI::App& command) {
  AddSize(command, "--host-memory", &options.host_bytes,
          "all that the process may take of RAM [80% of what there is]");
  command.add_option("--device", device, "cpu or cuda")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  AddSizeOrNone(command, "--device-memory", &device_bytes,
                "all that the process may take of the GPU");
  command.add_option("--threads", options.threads, "worker threads [one per core]")
      ->check(CLI::Range(0, 1024))
      ->type_name("N");
  command.add_option("--step-tokens", options.prompt_tokens, "of prompts in one step")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))
      ->capture_default_str()
      ->type_name("N");
  command
      .add_option_function<std::string>(
          "--kv-cache-dtype",
          [this](const std::string& name) { options.kv_dtype = DTypeFromName(name); },
          "of keys and values: f32, f16, bf16, which has the range of f32, or int8 with a scale "
          "for "
          "each token and head, which takes half the room [f16, or f32 with weights in f32]")
      ->check(CLI::IsMember({"f32", "f16", "bf16", "int8"}))
      ->type_name("TYPE");
  command
      .add_option(
          "--numerics", numerics,
          "exact: the same tokens whatever the batch, split or residency; fast: with a GPU, "
          "rows of matrices that lie in RAM are computed there, and large batches by cuBLASLt "
          "where it is installed, as far as that is faster")
      ->check(CLI::IsMember({"exact", "fast"}))
      ->capture_default_str();
}

void RunFlags::AddGuesses(CLI::App& command) {
  options.guesses = 8;
  command
      .add_option(
          "--guesses", options.guesses,
          "tokens guessed ahead in one step, of what was said before, where that is faster; "
          "the same tokens come; 0: none")
      ->check(CLI::Range(0, 64))
      ->capture_default_str()
      ->type_name("N");
  options.branches = 8;
  command
      .add_option("--branches", options.branches,
                  "tokens tried beside them in the same step, in case a guess is wrong, where that "
                  "is faster; 0: none")
      ->check(CLI::Range(0, 64))
      ->capture_default_str()
      ->type_name("N");
}

absl::Status RunFlags::Check() {
  if (device == "cuda") {
    if (Cuda() == nullptr) {
      return absl::FailedPreconditionError(
          "--device cuda: there is no CUDA device, no driver, or this program was built without "
          "CUDA (scripts/build cuda); use --device cpu");
    }
    options.backend = Cuda();
    options.device_bytes = device_bytes;
  } else if (device_bytes > 0) {
    return absl::InvalidArgumentError("--device-memory needs --device cuda; leave it out");
  }
  return absl::OkStatus();
}

void RunFlags::TuneFast(const ModelFile& file) {
  if (numerics != "fast" || options.backend == nullptr) return;
  const PackedFormat format = file.tensors.back().format;
  options.host_rows =
      MeasureHostRows(*options.backend, format, options.batch, WorkerThreads(options.threads));
  std::string large_batches = "by kernels of ours (cuBLASLt is not installed)";
  if (const Backend& library = *FastCuda(); !library.library.empty()) {
    const LibraryGain gain = MeasureLibrary(*options.backend, library, format);
    if (gain.from_tokens > 0) {
      options.backend = &library;
      large_batches = absl::StrFormat("from %d tokens on by %s (measured: %.2f times as fast)",
                                      gain.from_tokens, library.library, gain.times);
    } else {
      large_batches = absl::StrFormat("by kernels of ours (measured: %s is %.2f times as fast)",
                                      library.library, gain.times);
    }
  }
  std::fprintf(stderr, "numerics: fast; of rows in RAM the CPU computes %.0f%%; large batches %s\n",
               100 * options.host_rows, large_batches.c_str());
}

absl::StatusOr<ModelSpec> DescribeNamed(const std::string& name_or_path) {
  absl::StatusOr<std::string> config = ReadConfig(name_or_path);
  if (!config.ok()) return config.status();
  absl::StatusOr<ModelSpec> spec = DescribeModel(*config);
  if (spec.ok()) return spec;
  return absl::Status(spec.status().code(),
                      absl::StrFormat("%s: %s", name_or_path, spec.status().message()));
}

absl::Status OutputError() {
  return absl::UnavailableError(
      "cannot write to standard output: its reader is gone, or its disk is full");
}

void ShowFraction(const std::string& what, uint64_t done_bytes, uint64_t total_bytes) {
  static int shown = -1;  // tenths, where there is no terminal to redraw on
  if (total_bytes == 0) return;
  const double share = static_cast<double>(done_bytes) / total_bytes;
  if (isatty(STDERR_FILENO) != 0) {
    std::fprintf(stderr, "\r%s %5.1f%% of %s%s", what.c_str(), 100 * share,
                 FormatSize(total_bytes).c_str(), done_bytes >= total_bytes ? "\n" : "");
  } else if (static_cast<int>(share * 10) != shown) {
    shown = static_cast<int>(share * 10);
    std::fprintf(stderr, "%s %d%% of %s\n", what.c_str(), shown * 10,
                 FormatSize(total_bytes).c_str());
  }
}

ProgressFn ShowProgress(const std::string& what) {
  return [what](const Progress& progress) {
    if (!progress.note.empty()) {
      std::fprintf(stderr, "%s%s\n", isatty(STDERR_FILENO) != 0 ? "\n" : "",
                   std::string(progress.note).c_str());
    }
    ShowFraction(what, progress.done_bytes, progress.total_bytes);
  };
}

}  // namespace qianyi
