// `qianyi bench decode`: what the plan says a step takes at least, and what it takes.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "cli/command.h"
#include "cli/rates.h"
#include "nlohmann/json.hpp"
#include "runtime/engine.h"
#include "runtime/memory_size.h"
#include "runtime/models/registry.h"

namespace qianyi {
namespace {

using Clock = std::chrono::steady_clock;

struct DecodeFlags {
  ModelFlags model;
  RunFlags run;
  RateFlags rates;
  int64_t batch = 1;
  int32_t prompt_tokens = 32;
  int32_t tokens = 16;
  bool json = false;
};

struct Measured {
  double step_seconds = 0;
  int64_t steps = 0;
  double read_bytes = 0;  // by a step
  double prompt_tokens_per_second = 0;
};

// The same for everybody who measures, and different for each sequence. Commands and masks have the
// first ids of a vocabulary or the last, never those of its middle.
absl::StatusOr<GenerateRequest> RequestOf(const Model& model, const ModelSpec& spec, int64_t index,
                                          int32_t prompt_tokens, int32_t tokens) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < prompt_tokens; ++i) {
    const int64_t id = spec.vocab_size / 4 + (index * 7919 + i * 104729) % (spec.vocab_size / 2);
    ids.push_back(static_cast<int32_t>(id));
  }
  absl::StatusOr<Prompt> prompt = model.LayOut(std::move(ids));
  if (!prompt.ok()) return prompt.status();
  GenerateRequest request;
  request.prompt = *std::move(prompt);
  request.sampling.temperature = 0;
  request.max_tokens = tokens;
  return request;
}

// In how many steps the prompts of all sequences run, at most: so much longer than the last
// sequence the others generate, so that all do while it does.
int32_t PromptSteps(const DecodeFlags& flags) {
  const int64_t length = flags.prompt_tokens + 1, room = flags.run.options.prompt_tokens;
  const int64_t together = std::max<int64_t>(1, room / length);
  return static_cast<int32_t>((flags.batch / together + 1) * (length / room + 1));
}

// Steps from the first token of the last of the requests on, which runs last, to its last token.
// The others go on for longer, and are cancelled.
absl::StatusOr<Measured> Measure(Engine& engine, std::vector<GenerateRequest> requests) {
  std::vector<uint64_t> ids;
  std::shared_ptr<Sink> sink;
  double prompt_tokens = 0;
  const Clock::time_point start = Clock::now();
  for (GenerateRequest& request : requests) {
    prompt_tokens += static_cast<double>(request.prompt.tokens.size());
    sink = std::make_shared<Sink>(Engine::MaxEvents(request), 0);
    absl::StatusOr<uint64_t> id = engine.Submit(std::move(request), sink);
    if (!id.ok()) return id.status();
    ids.push_back(*id);
  }
  struct At {
    Clock::time_point time;
    uint64_t read_bytes;
  };
  std::vector<At> tokens;
  while (const TokenEvent* event = sink->Wait()) {
    if (event->finish != FinishReason::kNone) continue;
    tokens.push_back({Clock::now(), engine.weight_stats().read_bytes});
  }
  for (const uint64_t id : ids) engine.Cancel(id);
  if (!sink->status().ok()) return sink->status();
  const auto seconds = [](Clock::time_point from, Clock::time_point to) {
    return std::chrono::duration<double>(to - from).count();
  };
  const At &begin = tokens.front(), &end = tokens.back();
  const double steps = static_cast<double>(tokens.size()) - 1;
  return Measured{.step_seconds = seconds(begin.time, end.time) / steps,
                  .steps = static_cast<int64_t>(steps),
                  .read_bytes = static_cast<double>(end.read_bytes - begin.read_bytes) / steps,
                  .prompt_tokens_per_second = prompt_tokens / seconds(start, begin.time)};
}

void PrintTable(const Plan& plan, const Bound& bound, const Measured& found, int64_t batch) {
  const auto line = [](const char* what, const std::string& planned, const std::string& measured) {
    std::printf("%-28s %14s %14s\n", what, planned.c_str(), measured.c_str());
  };
  const double least = bound.step_seconds(), count = static_cast<double>(batch);
  line("", "predicted", "measured");
  line(absl::StrFormat("a step of %d sequence(s), s", batch).c_str(),
       absl::StrFormat("%.4f", least), absl::StrFormat("%.4f", found.step_seconds));
  line("tokens/s", absl::StrFormat("%.2f", count / least),
       absl::StrFormat("%.2f", count / found.step_seconds));
  line("weights read by a step",
       FormatSize(plan.models[0].disk_bytes + plan.models[0].expert_disk_bytes),
       FormatSize(static_cast<uint64_t>(found.read_bytes)));
  line("RAM", FormatSize(plan.host_used_bytes()), FormatSize(PeakResidentBytes()));
  line("prompt tokens/s", "", absl::StrFormat("%.1f", found.prompt_tokens_per_second));
  std::printf("%.2f of the bound's time, which is set by: %s\n", found.step_seconds / least,
              std::string(bound.link()).c_str());
}

nlohmann::json ToJson(const DecodeFlags& flags, const Plan& plan, const Bound& bound,
                      const Measured& found, const Rates& rates) {
  const Backend* const device = flags.run.options.backend;
  const ModelPlan& model = plan.models[0];
  const double batch = static_cast<double>(flags.batch);
  return {{"batch", flags.batch},
          {"prompt_tokens", flags.prompt_tokens},
          {"tokens", flags.tokens},
          {"cpu", Cpu().variant},
          {"device", device != nullptr ? device->variant : ""},
          {"numerics", flags.run.numerics},
          {"device_memory_bytes", plan.budget.device_bytes},
          {"host_memory_bytes", plan.budget.host_bytes},
          {"rates", ToJson(rates)},
          {"predicted",
           {{"step_seconds", bound.step_seconds()},
            {"link", bound.link()},
            {"tokens_per_second", batch / bound.step_seconds()},
            {"read_bytes", model.disk_bytes + model.expert_disk_bytes},
            {"host_used_bytes", plan.host_used_bytes()},
            {"device_used_bytes", plan.device_used_bytes()}}},
          {"measured",
           {{"step_seconds", found.step_seconds},
            {"steps", found.steps},
            {"tokens_per_second", batch / found.step_seconds},
            {"read_bytes", found.read_bytes},
            {"prompt_tokens_per_second", found.prompt_tokens_per_second},
            {"peak_resident_bytes", PeakResidentBytes()}}},
          {"over_bound", found.step_seconds / bound.step_seconds()}};
}

// The peak is to be the model's, not that of measuring rates before.
void ForgetPeakResidentBytes() { std::ofstream("/proc/self/clear_refs") << "5"; }

absl::Status RunBenchDecode(DecodeFlags flags) {
  if (absl::Status status = flags.run.Check(); !status.ok()) return status;
  absl::StatusOr<ModelFile> file = flags.model.Open();
  if (!file.ok()) return file.status();
  absl::StatusOr<std::unique_ptr<Model>> model = CreateModel(*file);
  if (!model.ok()) return model.status();
  LoadOptions& options = flags.run.options;
  options.context_tokens = 0;
  std::vector<GenerateRequest> requests;
  for (int64_t i = 0; i < flags.batch; ++i) {
    const int32_t tokens = flags.tokens + (i + 1 < flags.batch ? PromptSteps(flags) : 0);
    absl::StatusOr<GenerateRequest> request =
        RequestOf(**model, file->spec, i, flags.prompt_tokens, tokens);
    if (!request.ok()) return request.status();
    options.context_tokens =
        std::max(options.context_tokens, Generation::MaxCached(request->prompt, tokens));
    absl::Status status = Engine::Check(*request, file->spec, options.context_tokens);
    if (!status.ok()) return status;
    requests.push_back(*std::move(request));
  }
  options.batch = flags.batch;
  flags.run.TuneFast(*file);
  const ModelUse use = UseOf(*file, options);
  absl::StatusOr<Plan> plan = MakePlan({&use, 1}, HostBudget(options));
  if (!plan.ok()) return plan.status();
  absl::StatusOr<Rates> rates = flags.rates.Fill(*file, *plan, flags.run);
  if (!rates.ok()) return rates.status();
  const Bound bound = EstimateBound(*plan, *rates, /*cpu_rows=*/false);
  std::fprintf(stderr, "a step takes at least %.4f s by the plan (%s); loading\n",
               bound.step_seconds(), std::string(bound.link()).c_str());
  ForgetPeakResidentBytes();
  absl::StatusOr<std::unique_ptr<LoadedModel>> loaded =
      LoadedModel::Open(*std::move(file), *plan, options);
  if (!loaded.ok()) return loaded.status();
  // Prompts are all computed, and not held back for those that generate already.
  Engine engine(*std::move(loaded),
                {.queue = flags.batch, .keeps_prefixes = false, .prompt_stretch = 0});
  // The first step reads what stays in memory.
  GenerateRequest warm = requests[0];
  warm.max_tokens = 2;
  if (auto ready = Measure(engine, {std::move(warm)}); !ready.ok()) return ready.status();
  absl::StatusOr<Measured> found = Measure(engine, std::move(requests));
  if (!found.ok()) return found.status();
  if (flags.json) {
    std::printf("%s\n", ToJson(flags, *plan, bound, *found, *rates).dump(1).c_str());
  } else {
    PrintTable(*plan, bound, *found, flags.batch);
  }
  return absl::OkStatus();
}

}  // namespace

void AddBenchDecode(CLI::App& bench, Run* run) {
  auto flags = std::make_shared<DecodeFlags>();
  CLI::App* command = bench.add_subcommand(
      "decode", "steps of a model: what the plan predicts beside what is measured");
  flags->model.Add(*command, "--synth");
  flags->run.Add(*command);
  command->add_option("--batch", flags->batch, "sequences at once")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 16))
      ->capture_default_str();
  command->add_option("--prompt-tokens", flags->prompt_tokens, "of each sequence")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  command->add_option("--tokens", flags->tokens, "that each sequence generates")
      ->check(CLI::Range(2, 1 << 24))
      ->capture_default_str();
  flags->rates.Add(*command);
  command->add_flag("--json", flags->json, "print JSON");
  command->footer(
      "Example:\n  qianyi bench decode --synth glm-4-9b --dtype int4 --host-memory 8GiB --batch "
      "16");
  command->callback([=] { *run = [=] { return RunBenchDecode(*flags); }; });
}

}  // namespace qianyi
