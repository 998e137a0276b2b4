#include <utility>

#include "absl/strings/str_format.h"
#include "cli/command.h"

namespace qianyi {

absl::StatusOr<NamedAdapter> ParseAdapterFlag(const std::string& text) {
  const size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0 || equals + 1 == text.size()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("--adapter '%s' is not NAME=DIR, for example tang=adapters/tang", text));
  }
  return NamedAdapter{text.substr(0, equals), text.substr(equals + 1)};
}

void AdapterFlags::Add(CLI::App& command, const char* use_help) {
  command.add_option("--adapter", adapters, "LoRA or P-tuning v2 adapter; repeatable")
      ->type_name("NAME=DIR");
  command.add_option("--use", uses, use_help)->type_name("NAME");
}

absl::StatusOr<std::vector<NamedAdapter>> AdapterFlags::Parse(const ModelFile& file,
                                                              LoadOptions* options) const {
  std::vector<NamedAdapter> named;
  for (const std::string& text : adapters) {
    absl::StatusOr<NamedAdapter> adapter = ParseAdapterFlag(text);
    if (!adapter.ok()) return adapter.status();
    named.push_back(*std::move(adapter));
  }
  absl::StatusOr<uint64_t> bytes = AdapterBytes(named, file, UseOf(file, *options).kv_dtype);
  if (!bytes.ok()) return bytes.status();
  options->adapter_bytes = *bytes;
  return named;
}

absl::StatusOr<std::vector<std::shared_ptr<const Adapter>>> AdapterFlags::Choose(
    const AdapterSet& loaded, size_t count) const {
  const auto all = loaded.List();
  if (uses.empty() && all.size() > 1) {
    return absl::InvalidArgumentError(
        "several adapters are given; say which one to run with: --use NAME, or --use - for none");
  }
  if (uses.size() > 1 && uses.size() != count) {
    return absl::InvalidArgumentError(
        absl::StrFormat("--use is given %d times for %d prompts; give it once, or once for each",
                        uses.size(), count));
  }
  std::vector<std::shared_ptr<const Adapter>> chosen;
  for (size_t i = 0; i < count; ++i) {
    if (uses.empty()) {
      chosen.push_back(all.empty() ? nullptr : all[0]);
      continue;
    }
    const std::string& use = uses[uses.size() == 1 ? 0 : i];
    if (use == "-") {
      chosen.push_back(nullptr);
      continue;
    }
    auto adapter = loaded.Find(use);
    if (!adapter.ok()) return adapter.status();
    chosen.push_back(*std::move(adapter));
  }
  return chosen;
}

}  // namespace qianyi
