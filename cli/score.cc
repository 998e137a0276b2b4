#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "cli/command.h"
#include "nlohmann/json.hpp"
#include "runtime/models/registry.h"
#include "runtime/parse_json.h"
#include "runtime/prompts/prompts.h"
#include "runtime/scoring.h"
#include "runtime/tokenizers/tokenizer.h"

namespace qianyi {
namespace {

struct ScoreFlags {
  std::string folder;
  std::string task;
  std::string file;
  RunFlags run;
  AdapterFlags adapters;
  bool quiet = false;
};

struct Row {
  Prompt prompt;
  std::vector<int32_t> tokens;
  int64_t characters = 0;
};

// In the summary task the request's own field is `text`; what is scored is then `summary`.
const char* ScoredField(Task task) { return task == Task::kSummary ? "summary" : "text"; }

int64_t CountCharacters(std::string_view text) {
  return std::count_if(text.begin(), text.end(),
                       [](char byte) { return (static_cast<uint8_t>(byte) & 0xC0) != 0x80; });
}

absl::StatusOr<std::string> ReadField(const nlohmann::json& line, const std::string& name,
                                      bool required) {
  const auto at = line.find(name);
  if ((at == line.end() || at->is_null()) && !required) return "";
  if (at == line.end() || !at->is_string()) {
    return absl::InvalidArgumentError(absl::StrFormat("\"%s\" must be a string", name));
  }
  return at->get<std::string>();
}

absl::StatusOr<Row> ReadRow(const std::string& text, Task task, const Prompts& prompts,
                            const Model& model, const Tokenizer& tokenizer) {
  const nlohmann::json line = ParseJson(text);
  if (!line.is_object()) return absl::InvalidArgumentError("not a JSON object");
  PromptFields fields;
  for (const TaskField& field : InfoOf(task).fields) {
    absl::StatusOr<std::string> value = ReadField(line, field.name, field.required);
    if (!value.ok()) return value.status();
    fields[field.name] = *std::move(value);
  }
  absl::StatusOr<std::string> scored = ReadField(line, ScoredField(task), true);
  if (!scored.ok()) return scored.status();
  absl::StatusOr<std::vector<int32_t>> ids = prompts.EncodeTask(task, fields, model, tokenizer);
  if (!ids.ok()) return ids.status();
  absl::StatusOr<Prompt> prompt = model.LayOut(*std::move(ids));
  if (!prompt.ok()) return prompt.status();
  absl::StatusOr<std::vector<int32_t>> tokens = tokenizer.Encode(*scored, /*specials=*/false);
  if (!tokens.ok()) return tokens.status();
  return Row{*std::move(prompt), *std::move(tokens), CountCharacters(*scored)};
}

absl::StatusOr<std::vector<Row>> ReadRows(const ScoreFlags& flags, Task task, const ModelFile& file,
                                          const Tokenizer& tokenizer) {
  absl::StatusOr<std::unique_ptr<Model>> model = CreateModel(file);
  if (!model.ok()) return model.status();
  absl::StatusOr<Prompts> prompts = Prompts::Of(file.spec);
  if (!prompts.ok()) return prompts.status();
  std::ifstream input(flags.file);
  if (!input) return absl::NotFoundError(absl::StrFormat("%s: cannot be opened", flags.file));
  std::vector<Row> rows;
  std::string text;
  for (int64_t number = 1; std::getline(input, text); ++number) {
    if (text.empty()) continue;
    absl::StatusOr<Row> row = ReadRow(text, task, *prompts, **model, tokenizer);
    if (!row.ok()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s:%d: %s", flags.file, number, std::string(row.status().message())));
    }
    rows.push_back(*std::move(row));
  }
  if (input.bad()) return absl::DataLossError(absl::StrFormat("%s: cannot be read", flags.file));
  if (rows.empty()) {
    return absl::InvalidArgumentError(absl::StrFormat("%s has no lines to score", flags.file));
  }
  return rows;
}

// Room for the longest row; one row is one step.
void SetRoom(const std::vector<Row>& rows, LoadOptions* options) {
  options->batch = 1;
  options->context_tokens = 1;
  options->logit_rows = 1;
  for (const Row& row : rows) {
    const int64_t tokens = static_cast<int64_t>(row.tokens.size());
    options->context_tokens = std::max(options->context_tokens,
                                       static_cast<int64_t>(row.prompt.tokens.size()) + tokens + 1);
    options->logit_rows = std::max(options->logit_rows, tokens);
  }
  options->prompt_tokens = options->context_tokens;
}

absl::Status RunScore(ScoreFlags flags) {
  if (absl::Status status = flags.run.Check(); !status.ok()) return status;
  const std::optional<Task> task = FindTask(flags.task);
  absl::StatusOr<ModelFile> file = ModelFile::Open(flags.folder);
  if (!file.ok()) return file.status();
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = OpenTokenizer(flags.folder);
  if (!tokenizer.ok()) return tokenizer.status();
  absl::StatusOr<std::vector<Row>> rows = ReadRows(flags, *task, *file, **tokenizer);
  if (!rows.ok()) return rows.status();
  SetRoom(*rows, &flags.run.options);
  flags.run.TuneFast(*file);
  const auto adapters = flags.adapters.Parse(*file, &flags.run.options);
  if (!adapters.ok()) return adapters.status();
  absl::StatusOr<std::unique_ptr<LoadedModel>> model =
      LoadedModel::Open(*std::move(file), flags.run.options);
  if (!model.ok()) return model.status();
  if (absl::Status status = (*model)->adapters().LoadAll(*adapters); !status.ok()) return status;
  const auto chosen = flags.adapters.Choose((*model)->adapters(), 1);
  if (!chosen.ok()) return chosen.status();
  double sum = 0;
  int64_t characters = 0;
  for (size_t i = 0; i < rows->size(); ++i) {
    const Row& row = (*rows)[i];
    absl::StatusOr<double> logprob =
        LogProbability(**model, row.prompt, row.tokens, (*chosen)[0].get());
    if (!logprob.ok()) return logprob.status();
    std::printf("%.6f\n", *logprob);
    sum += *logprob;
    characters += row.characters;
    if (!flags.quiet && i % 256 == 255) {
      std::fprintf(stderr, "%zu of %zu lines, perplexity so far %.3f\n", i + 1, rows->size(),
                   std::exp(-sum / static_cast<double>(std::max<int64_t>(characters, 1))));
    }
  }
  if (characters == 0) {
    return absl::InvalidArgumentError(absl::StrFormat("%s: every text is empty", flags.file));
  }
  std::printf("perplexity_per_character %.6f\n", std::exp(-sum / static_cast<double>(characters)));
  return absl::OkStatus();
}

}  // namespace

void AddScore(CLI::App& app, Run* run) {
  auto flags = std::make_shared<ScoreFlags>();
  CLI::App* command =
      app.add_subcommand("score", "how likely a model finds given answers to a task");
  command->add_option("--model", flags->folder, "model folder")->required()->type_name("DIR");
  std::vector<std::string> names;
  for (const TaskInfo& info : Tasks()) names.push_back(info.name);
  command->add_option("--task", flags->task, "what the lines are")
      ->required()
      ->check(CLI::IsMember(names));
  command
      ->add_option("FILE", flags->file,
                   "JSON lines: the fields of the task and `text`, the answer to score "
                   "(for summary, where `text` is the source, `summary`)")
      ->required();
  flags->run.Add(*command);
  flags->adapters.Add(*command, "adapter to score with; - is none [the only one]");
  command->add_flag("--quiet", flags->quiet, "no progress on standard error");
  command->footer(
      "Prints the natural log-probability of each answer, end token left out, without any\n"
      "constraint, and last the perplexity per Unicode character of all of them.\n"
      "Example:\n"
      "  qianyi score --model models/poet --task couplet lines.jsonl");
  command->callback([=] { *run = [=] { return RunScore(*flags); }; });
}

}  // namespace qianyi
