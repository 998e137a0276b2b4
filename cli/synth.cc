#include "runtime/storage/synth.h"

#include <memory>
#include <string>

#include "cli/command.h"
#include "runtime/models/registry.h"
#include "runtime/storage/format.h"

namespace qianyi {
namespace {

struct SynthFlags {
  std::string config;
  std::string destination;
  std::string dtype = "int4";
  std::optional<int> group;
  uint64_t seed = 0;
  double router_skew = 0;
};

absl::Status RunSynth(const SynthFlags& flags) {
  absl::StatusOr<ModelSpec> spec = DescribeNamed(flags.config);
  if (!spec.ok()) return spec.status();
  if (auto status = SetRouterSkew(flags.router_skew, &*spec); !status.ok()) return status;
  absl::StatusOr<PackedFormat> format = ParseFormat(flags.dtype, flags.group);
  if (!format.ok()) return format.status();
  return WriteSynth(*spec, *format, flags.seed, flags.destination, ShowProgress("writing"));
}

}  // namespace

void AddSynth(CLI::App& app, Run* run) {
  auto flags = std::make_shared<SynthFlags>();
  CLI::App* command = app.add_subcommand(
      "synth", "write random weights of a shape, to time models that nobody has at hand");
  command->add_option("--config", flags->config, "a built-in shape or the path of a config.json")
      ->required()
      ->type_name("NAME|FILE");
  command->add_option("OUT", flags->destination, "folder to make")->required();
  AddFormat(*command, &flags->dtype, &flags->group);
  AddSeed(*command, "--seed", &flags->seed, "of the weights");
  AddRouterSkew(*command, &flags->router_skew);
  std::string names;
  for (std::string_view name : BuiltinConfigNames()) names += " " + std::string(name);
  command->footer("Built-in shapes:" + names +
                  "\nExample:\n  qianyi synth --config glm-4-9b --dtype int4 models/glm-4-9b");
  command->callback([=] { *run = [=] { return RunSynth(*flags); }; });
}

}  // namespace qianyi
