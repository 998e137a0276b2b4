#include "runtime/plan.h"

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>

#include "absl/strings/str_format.h"
#include "cli/command.h"
#include "cli/rates.h"
#include "nlohmann/json.hpp"
#include "runtime/choose_batch.h"
#include "runtime/memory_size.h"

namespace qianyi {
namespace {

struct PlanFlags {
  ModelFlags model;
  RunFlags run;
  int64_t context = 2048;
  int64_t batch = 1;
  std::string cpu_rows = "auto";
  RateFlags rates;
  bool json = false;
};

nlohmann::json ToJson(const Plan& plan, const Bound& bound, const Rates& rates, int64_t batch) {
  const ModelPlan& model = plan.models[0];
  return {{"resident_bytes", bound.resident_bytes},
          {"streamed_bytes", bound.streamed_bytes},
          {"batch", batch},
          {"kv_bytes", model.kv_bytes},
          {"kv_mapped_bytes", model.MappedPart(model.kv_bytes)},
          {"lendable_bytes", model.lendable_bytes},
          {"workspace_bytes", model.workspace_bytes},
          {"constant_bytes", model.constant_bytes},
          {"ring_bytes", model.ring_bytes},
          {"expert_bytes", model.expert_bytes},
          {"expert_cache_bytes", model.expert_cache_bytes},
          {"device_expert_bytes", model.device_expert_bytes},
          {"embedding_bytes", model.embedding_bytes},
          {"device_weight_bytes", model.device_bytes},
          {"host_weight_bytes", model.host_bytes},
          {"disk_weight_bytes", model.disk_bytes},
          {"host_used_bytes", plan.host_used_bytes()},
          {"device_used_bytes", plan.device_used_bytes()},
          {"rates", ToJson(rates)},
          {"bound",
           {{"link", bound.link()},
            {"step_seconds", bound.step_seconds()},
            {"device_memory_seconds", bound.device_memory},
            {"host_memory_seconds", bound.host_memory},
            {"host_to_device_seconds", bound.host_to_device},
            {"disk_seconds", bound.disk},
            {"compute_seconds", bound.compute}}},
          {"tokens_per_second", batch / bound.step_seconds()}};
}

void PrintTable(const Plan& plan, const Bound& bound, int64_t batch) {
  const ModelPlan& model = plan.models[0];
  auto size = [](const char* what, uint64_t bytes) {
    std::printf("  %-34s %12s\n", what, FormatSize(bytes).c_str());
  };
  std::printf("memory\n");
  if (plan.budget.device_bytes > 0) size("weights on the device", model.device_bytes);
  size("weights resident in RAM", model.host_bytes);
  size("weights streamed from disk", model.disk_bytes);
  if (model.expert_bytes > 0) {
    size("experts", model.expert_bytes);
    if (model.device_experts > 0) size("of which on the device", model.device_expert_bytes);
    size("of which in RAM", model.expert_cache_bytes);
  }
  size("embedding, of which resident", model.embedding_bytes);
  size("", model.embedding_resident_bytes);
  size("norms, biases, position tables", model.constant_bytes);
  size("key-value cache", model.kv_bytes);
  if (model.kv_mapped_layers > 0) size("of which in RAM", model.MappedPart(model.kv_bytes));
  if (model.lendable_bytes > 0) size("of which weights while idle", model.lendable_bytes);
  size("activations and logits", model.workspace_bytes);
  size("prefetch ring", model.ring_bytes);
  size("RAM in all", plan.host_used_bytes());
  if (plan.budget.device_bytes > 0) size("device memory in all", plan.device_used_bytes());
  std::printf("a step of %d token(s) takes at least\n", static_cast<int>(batch));
  auto time = [&](const char* what, double seconds, std::string_view link) {
    if (seconds > 0) {
      std::printf("  %-34s %10.4f s%s\n", what, seconds,
                  link == bound.link() ? "  <- the bound" : "");
    }
  };
  time("device memory", bound.device_memory, "device_memory");
  time("RAM", bound.host_memory, "host_memory");
  time("link to the device", bound.host_to_device, "host_to_device");
  time("disk", bound.disk, "disk");
  time("arithmetic", bound.compute, "compute");
  std::printf("at most %.2f tokens/s\n", batch / bound.step_seconds());
}

absl::Status RunPlan(const PlanFlags& flags) {
  absl::StatusOr<ModelFile> file = flags.model.Open();
  if (!file.ok()) return file.status();
  LoadOptions options = flags.run.options;
  options.context_tokens = std::min(flags.context, file->spec.max_positions);
  if (flags.run.device == "cuda") options.backend = Cuda();  // null: the flags describe another
  MemoryBudget budget = HostBudget(options);
  if (flags.run.device_bytes > 0) budget.device_bytes = flags.run.device_bytes;
  const auto plan_for = [&](int64_t batch) -> absl::StatusOr<Plan> {
    options.batch = batch;
    const ModelUse use = UseOf(*file, options);
    return MakePlan({&use, 1}, budget);
  };
  absl::StatusOr<Plan> plan = plan_for(flags.batch == kAutoBatch ? 1 : flags.batch);
  if (!plan.ok()) return plan.status();
  absl::StatusOr<Rates> rates = flags.rates.Fill(*file, *plan, flags.run);
  if (!rates.ok()) return rates.status();
  int64_t batch = flags.batch;
  if (batch == kAutoBatch) {
    absl::StatusOr<int64_t> chosen = ChooseBatch(plan_for, *rates, flags.cpu_rows == "auto");
    if (!chosen.ok()) return chosen.status();
    batch = *chosen;
    plan = plan_for(batch);
    if (!plan.ok()) return plan.status();
  }
  const Bound bound = EstimateBound(*plan, *rates, flags.cpu_rows == "auto");
  if (flags.json) {
    std::printf("%s\n", ToJson(*plan, bound, *rates, batch).dump(1).c_str());
  } else {
    PrintTable(*plan, bound, batch);
  }
  return absl::OkStatus();
}

}  // namespace

void AddPlan(CLI::App& app, Run* run) {
  auto flags = std::make_shared<PlanFlags>();
  CLI::App* command = app.add_subcommand(
      "plan", "what would live where, and how fast that can be, before anything is loaded");
  flags->model.Add(*command, "--config");
  flags->run.Add(*command);
  flags->run.AddGuesses(*command);
  command->add_option("--context", flags->context, "tokens of one sequence, prompt and output")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 24))
      ->capture_default_str();
  AddBatch(*command, &flags->batch, 1 << 16,
           "sequences at once, or auto: as many as give most tokens/s");
  command
      ->add_option(
          "--cpu-rows", flags->cpu_rows,
          "auto: with a device, rows in RAM are computed where they lie when that is faster "
          "than moving them; off: all move")
      ->check(CLI::IsMember({"auto", "off"}))
      ->capture_default_str();
  flags->rates.Add(*command);
  command->add_flag("--json", flags->json, "print JSON");
  command->footer(
      "Example:\n  qianyi plan --config glm-4-9b --dtype int4 --host-memory 3GiB --disk 3GB/s");
  command->callback([=] { *run = [=] { return RunPlan(*flags); }; });
}

}  // namespace qianyi
