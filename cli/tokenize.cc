#include <charconv>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "cli/command.h"
#include "cli/ids.h"
#include "runtime/tokenizers/tokenizer.h"

namespace qianyi {
namespace {

struct TokenizeFlags {
  std::string folder;
  std::string text;
  std::string ids;
  bool decode = false;
  bool plain = false;
};

absl::Status RunTokenize(const TokenizeFlags& flags) {
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = OpenTokenizer(flags.folder);
  if (!tokenizer.ok()) return tokenizer.status();
  if (flags.decode) {
    absl::StatusOr<std::vector<int32_t>> ids = ParseIds("--decode", flags.ids);
    if (!ids.ok()) return ids.status();
    absl::StatusOr<std::string> text = (*tokenizer)->Decode(*ids);
    if (!text.ok()) return text.status();
    std::printf("%s\n", text->c_str());
    return absl::OkStatus();
  }
  absl::StatusOr<std::vector<int32_t>> ids = (*tokenizer)->Encode(flags.text, !flags.plain);
  if (!ids.ok()) return ids.status();
  std::printf("%s\n", FormatIds(*ids).c_str());
  return absl::OkStatus();
}

}  // namespace

void AddTokenize(CLI::App& app, Run* run) {
  auto flags = std::make_shared<TokenizeFlags>();
  CLI::App* command = app.add_subcommand("tokenize", "text to token ids, or back");
  command->add_option("--model", flags->folder, "folder with a tokenizer")
      ->required()
      ->type_name("DIR");
  auto* text = command->add_option("TEXT", flags->text, "to encode");
  auto* ids =
      command->add_option("--decode", flags->ids, "ids to decode, as 5,6,7")->type_name("IDS");
  text->excludes(ids);
  command->add_flag("--plain", flags->plain, "treat command words such as [MASK] as plain text");
  command->footer(
      "Examples:\n  qianyi tokenize --model models/glm-10b 'Hello [MASK]'\n"
      "  qianyi tokenize --model models/glm-10b --decode 15496,995");
  command->callback([=] {
    if (text->empty() && ids->empty()) {
      throw CLI::RequiredError("TEXT, or --decode IDS,");
    }
    flags->decode = !ids->empty();
    *run = [=] { return RunTokenize(*flags); };
  });
}

}  // namespace qianyi
