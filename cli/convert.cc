#include "runtime/storage/convert.h"

#include <memory>
#include <string>
#include <thread>

#include "cli/command.h"
#include "runtime/storage/format.h"

namespace qianyi {
namespace {

struct ConvertFlags {
  ConvertOptions options;
  std::string config;
  std::string dtype = "int4";
  std::optional<int> group;
  int threads = 0;
};

absl::Status RunConvert(ConvertFlags flags) {
  absl::StatusOr<PackedFormat> format = ParseFormat(flags.dtype, flags.group);
  if (!format.ok()) return format.status();
  flags.options.format = *format;
  if (!flags.config.empty()) {
    absl::StatusOr<ModelSpec> spec = DescribeNamed(flags.config);
    if (!spec.ok()) return spec.status();
    flags.options.config = spec->config_json;
  }
  flags.options.threads =
      flags.threads > 0 ? flags.threads : static_cast<int>(std::thread::hardware_concurrency());
  return Convert(flags.options, ShowProgress("converting"));
}

}  // namespace

void AddConvert(CLI::App& app, Run* run) {
  auto flags = std::make_shared<ConvertFlags>();
  CLI::App* command =
      app.add_subcommand("convert", "make a model folder in streaming layout from a checkpoint");
  command
      ->add_option("SRC", flags->options.source,
                   "a checkpoint: a folder or a file of safetensors, PyTorch or GGUF")
      ->required();
  command->add_option("DST", flags->options.destination, "folder to make")->required();
  command
      ->add_option("--config", flags->config,
                   "instead of the config.json beside the checkpoint: a built-in shape, or a path")
      ->type_name("NAME|FILE");
  AddFormat(*command, &flags->dtype, &flags->group);
  command->add_option("--threads", flags->threads, "[one per core]")->check(CLI::Range(0, 1024));
  command->footer(
      "Examples:\n  qianyi convert glm-4-9b-chat/ models/glm-4-9b --dtype int4 --group 32\n"
      "  qianyi convert glm-10b-1024/ models/glm-10b --config glm-10b\n"
      "  qianyi convert glm-4-9b-chat.Q8_0.gguf models/glm-4-9b --dtype int8");
  command->callback([=] { *run = [=] { return RunConvert(*flags); }; });
}

}  // namespace qianyi
