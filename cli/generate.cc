#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_format.h"
#include "cli/command.h"
#include "cli/ids.h"
#include "nlohmann/json.hpp"
#include "runtime/detokenizer.h"
#include "runtime/engine.h"
#include "runtime/memory_size.h"
#include "runtime/models/registry.h"
#include "runtime/tokenizers/tokenizer.h"

namespace qianyi {
namespace {

struct GenerateFlags {
  ModelFlags model;
  RunFlags run;
  AdapterFlags adapters;
  std::vector<std::string> prompts;
  std::vector<std::string> prompt_ids;
  std::vector<std::string> stops;
  std::vector<int32_t> stop_ids;
  std::vector<std::string> logit_bias;
  SamplingParams sampling;
  int32_t max_tokens = 128;
  int64_t context = 0;
  int64_t batch = 0;
  bool ignore_end = false;
  bool print_ids = false;
  bool quiet = false;
  std::string stats_file;
  std::string draft_folder;
};

absl::Status ParseBias(const std::vector<std::string>& items, SamplingParams* sampling) {
  for (const std::string& item : items) {
    const size_t colon = item.find(':');
    absl::StatusOr<std::vector<int32_t>> id = ParseIds("--logit-bias", item.substr(0, colon));
    if (!id.ok()) return id.status();
    char* end = nullptr;
    const float bias =
        colon == std::string::npos ? 0.0f : std::strtof(item.c_str() + colon + 1, &end);
    if (end == nullptr || end == item.c_str() + colon + 1 || *end != '\0' || id->size() != 1) {
      return absl::InvalidArgumentError(
          absl::StrFormat("--logit-bias '%s' is not ID:BIAS, for example 42:-100", item));
    }
    sampling->logit_bias.emplace_back((*id)[0], bias);
  }
  return absl::OkStatus();
}

// Prompts of either kind, laid out by the model.
absl::StatusOr<std::vector<Prompt>> LayOutPrompts(const GenerateFlags& flags, const Model& model,
                                                  const Tokenizer* tokenizer) {
  std::vector<std::vector<int32_t>> ids;
  for (const std::string& text : flags.prompts) {
    if (tokenizer == nullptr) {
      return absl::InvalidArgumentError(
          "the model has no tokenizer, so --prompt cannot be read; give --prompt-ids 5,6,7");
    }
    const PromptPart whole = {text, /*commands=*/true};
    absl::StatusOr<std::vector<int32_t>> encoded = model.Encode(*tokenizer, {&whole, 1});
    if (!encoded.ok()) return encoded.status();
    ids.push_back(*std::move(encoded));
  }
  for (const std::string& text : flags.prompt_ids) {
    absl::StatusOr<std::vector<int32_t>> parsed = ParseIds("--prompt-ids", text);
    if (!parsed.ok()) return parsed.status();
    ids.push_back(*std::move(parsed));
  }
  if (ids.empty()) {
    return absl::InvalidArgumentError("no prompt given; say --prompt TEXT or --prompt-ids 5,6,7");
  }
  std::vector<Prompt> prompts;
  for (std::vector<int32_t>& prompt : ids) {
    absl::StatusOr<Prompt> laid = model.LayOut(std::move(prompt));
    if (!laid.ok()) return laid.status();
    prompts.push_back(*std::move(laid));
  }
  return prompts;
}

// Writes one request's output: text as it comes, or ids on one line. Blanks after the first
// go on lines of their own; of ids, behind a semicolon.
absl::Status WriteOutput(const GenerateFlags& flags, const Tokenizer* tokenizer, Engine& engine,
                         uint64_t id, int32_t blanks, Sink& sink) {
  const bool as_text = tokenizer != nullptr && !flags.print_ids;
  std::optional<Detokenizer> detokenizer;
  if (as_text) detokenizer.emplace(*tokenizer, flags.stops);
  int32_t in_blank = 0;
  bool stopped = false;
  std::string text;
  while (const TokenEvent* event = sink.Wait()) {
    if (stopped) continue;  // tokens that were under way when a stop string was found
    if (event->finish != FinishReason::kNone) {
      if (as_text) {
        text.clear();
        detokenizer->Finish(&text);
        std::fwrite(text.data(), 1, text.size(), stdout);
        detokenizer.emplace(*tokenizer, flags.stops);
        std::fputc('\n', stdout);
      } else if (event->blank + 1 < blanks) {
        std::fputc(';', stdout);
      } else {
        std::fputc('\n', stdout);
      }
      in_blank = 0;
      continue;
    }
    if (!as_text) {
      std::printf("%s%d", in_blank++ > 0 ? "," : "", event->token.token);
    } else {
      text.clear();
      detokenizer->Append(event->token.token, &text);
      std::fwrite(text.data(), 1, text.size(), stdout);
      stopped = detokenizer->stopped();
      if (stopped) {
        std::fputc('\n', stdout);
        engine.Cancel(id);
      }
    }
    if (std::fflush(stdout) != 0) return OutputError();
  }
  if (stopped) return absl::OkStatus();
  return sink.status();
}

void PrintSummary(const Engine& engine, double seconds) {
  const EngineStats stats = engine.stats();
  const WeightStoreStats weights = engine.weight_stats();
  std::fprintf(
      stderr,
      "%llu tokens in %.2f s (%.2f tokens/s), %llu steps of %.1f ms; read %s at %.2f GB/s, "
      "waited %.2f s for weights; peak memory %s\n",
      static_cast<unsigned long long>(stats.generated_tokens), seconds,
      stats.generated_tokens / seconds, static_cast<unsigned long long>(stats.steps),
      stats.steps > 0 ? 1e3 * stats.step_seconds / stats.steps : 0.0,
      FormatSize(weights.read_bytes).c_str(), weights.read_bytes / seconds * 1e-9,
      weights.stall_seconds, FormatSize(PeakResidentBytes()).c_str());
  if (stats.guessed_tokens > 0) {
    std::fprintf(stderr, "%llu tokens were guessed ahead, of which %llu came\n",
                 static_cast<unsigned long long>(stats.guessed_tokens),
                 static_cast<unsigned long long>(stats.accepted_tokens));
  }
  const ExpertStats& experts = weights.experts;
  if (experts.uses == 0) return;
  const ModelPlan& plan = engine.plan().models[0];
  std::fprintf(stderr,
               "experts: %.1f%% of %llu uses were in memory, room for %s of %s; read %s, of which "
               "%llu experts ahead (%llu used)\n",
               100.0 * experts.hits / experts.uses, static_cast<unsigned long long>(experts.uses),
               FormatSize(plan.expert_cache_bytes).c_str(), FormatSize(plan.expert_bytes).c_str(),
               FormatSize(experts.read_bytes).c_str(),
               static_cast<unsigned long long>(experts.foreseen),
               static_cast<unsigned long long>(experts.foreseen_used));
}

nlohmann::json ExpertsJson(const ExpertStats& experts, const ModelPlan& plan) {
  return {{"uses", experts.uses},
          {"hits", experts.hits},
          {"used_bytes", experts.used_bytes},
          {"hit_bytes", experts.hit_bytes},
          {"read_bytes", experts.read_bytes},
          {"foreseen", experts.foreseen},
          {"foreseen_used", experts.foreseen_used},
          {"stall_seconds", experts.stall_seconds},
          {"bytes", plan.expert_bytes},
          {"cache_bytes", plan.expert_cache_bytes}};
}

absl::Status WriteStats(const std::string& path, const Engine& engine, double seconds) {
  const EngineStats stats = engine.stats();
  const WeightStoreStats weights = engine.weight_stats();
  const ModelPlan& plan = engine.plan().models[0];
  nlohmann::json json = {
      {"seconds", seconds},
      {"steps", stats.steps},
      {"prompt_tokens", stats.prompt_tokens},
      {"generated_tokens", stats.generated_tokens},
      {"guessed_tokens", stats.guessed_tokens},
      {"accepted_tokens", stats.accepted_tokens},
      {"branch_tokens", stats.branch_tokens},
      {"accepted_branch_tokens", stats.accepted_branch_tokens},
      {"step_seconds", stats.step_seconds},
      {"step_threads", stats.step_threads},
      {"steady_steps", stats.steady_steps},
      {"steady_seconds", stats.steady_seconds},
      {"steady_read_bytes", stats.steady_read_bytes},
      {"steady_read_bytes_per_second",
       stats.steady_seconds > 0 ? stats.steady_read_bytes / stats.steady_seconds : 0.0},
      {"read_bytes", weights.read_bytes},
      {"gathered_bytes", weights.gathered_bytes},
      {"stall_seconds", weights.stall_seconds},
      {"resident_weight_bytes", plan.host_bytes},
      {"streamed_weight_bytes", plan.disk_bytes},
      {"lent_weight_bytes", weights.lent_bytes},
      {"planned_host_bytes", engine.plan().host_used_bytes()},
      {"host_memory_bytes", engine.plan().budget.host_bytes},
      {"peak_resident_bytes", PeakResidentBytes()},
      {"cpu", Cpu().variant}};
  if (plan.expert_bytes > 0) json["experts"] = ExpertsJson(weights.experts, plan);
  std::FILE* file = std::fopen(path.c_str(), "w");
  const std::string text = json.dump(1) + "\n";
  const bool written =
      file != nullptr && std::fwrite(text.data(), 1, text.size(), file) == text.size();
  if ((file != nullptr && std::fclose(file) != 0) || !written) {
    return absl::UnavailableError(absl::StrFormat("--stats: cannot write %s", path));
  }
  return absl::OkStatus();
}

// The first step reads every weight: on a large model that is worth a line on the way.
std::jthread ShowReading(const Engine& engine) {
  return std::jthread([&engine](std::stop_token stop) {
    const ModelPlan& plan = engine.plan().models[0];
    const uint64_t total_bytes = plan.host_bytes + plan.disk_bytes;
    std::mutex mutex;
    std::condition_variable_any never;
    std::unique_lock lock(mutex);
    for (;;) {
      never.wait_for(lock, stop, std::chrono::milliseconds(500), [] { return false; });
      if (stop.stop_requested() || engine.stats().steps > 0) return;
      ShowFraction("reading weights", std::min(engine.weight_stats().read_bytes, total_bytes),
                   total_bytes);
    }
  });
}

absl::StatusOr<std::unique_ptr<Tokenizer>> TokenizerOf(const std::string& folder) {
  if (folder.empty()) return nullptr;
  absl::StatusOr<std::unique_ptr<Tokenizer>> opened = OpenTokenizer(folder);
  if (!opened.ok() && absl::IsNotFound(opened.status())) return nullptr;
  return opened;
}

// All that is asked for, checked before anything is loaded; sets context and batch of the flags.
absl::StatusOr<std::vector<GenerateRequest>> MakeRequests(const ModelFile& file,
                                                          const Tokenizer* tokenizer,
                                                          GenerateFlags* flags) {
  absl::StatusOr<std::unique_ptr<Model>> model = CreateModel(file);
  if (!model.ok()) return model.status();
  absl::StatusOr<std::vector<Prompt>> prompts = LayOutPrompts(*flags, **model, tokenizer);
  if (!prompts.ok()) return prompts.status();
  LoadOptions& options = flags->run.options;
  options.context_tokens = flags->context;
  if (options.context_tokens == 0) {  // what these prompts need
    for (const Prompt& prompt : *prompts) {
      options.context_tokens =
          std::max(options.context_tokens, Generation::MaxCached(prompt, flags->max_tokens));
    }
  }
  options.batch = flags->batch > 0 ? flags->batch : static_cast<int64_t>(prompts->size());
  std::vector<int32_t> ends = flags->stop_ids;
  if (!flags->ignore_end) {
    ends.insert(ends.end(), (*model)->end_tokens().begin(), (*model)->end_tokens().end());
  }
  std::vector<GenerateRequest> requests;
  for (Prompt& prompt : *prompts) {
    requests.push_back({.prompt = std::move(prompt),
                        .sampling = flags->sampling,
                        .max_tokens = flags->max_tokens,
                        .end_tokens = ends});
    absl::Status status = Engine::Check(requests.back(), file.spec, options.context_tokens);
    if (!status.ok()) return status;
  }
  return requests;
}

// The model, and beside it the draft model, within one budget.
struct Opened {
  std::unique_ptr<LoadedModel> loaded;
  std::unique_ptr<Drafter> drafter;  // or null
};
absl::StatusOr<Opened> OpenModels(ModelFile file, const Tokenizer* tokenizer,
                                  const GenerateFlags& flags) {
  const LoadOptions& options = flags.run.options;
  if (flags.draft_folder.empty()) {
    absl::StatusOr<std::unique_ptr<LoadedModel>> loaded =
        LoadedModel::Open(std::move(file), options);
    if (!loaded.ok()) return loaded.status();
    return Opened{*std::move(loaded), nullptr};
  }
  absl::StatusOr<ModelFile> draft =
      Drafter::OpenFile(flags.draft_folder, file.spec, tokenizer, options.context_tokens);
  if (!draft.ok()) return draft.status();
  const LoadOptions draft_options = Drafter::OptionsFor(options);
  const ModelUse uses[] = {UseOf(file, options), UseOf(*draft, draft_options)};
  absl::StatusOr<Plan> plan = MakePlan(uses, HostBudget(options));
  if (!plan.ok()) return plan.status();
  absl::StatusOr<std::unique_ptr<LoadedModel>> loaded =
      LoadedModel::Open(std::move(file), Plan{plan->budget, {plan->models[0]}}, options);
  if (!loaded.ok()) return loaded.status();
  absl::StatusOr<std::unique_ptr<LoadedModel>> small =
      LoadedModel::Open(*std::move(draft), Plan{plan->budget, {plan->models[1]}}, draft_options);
  if (!small.ok()) return small.status();
  return Opened{*std::move(loaded), std::make_unique<Drafter>(*std::move(small))};
}

absl::Status RunGenerate(GenerateFlags flags) {
  if (absl::Status status = flags.run.Check(); !status.ok()) return status;
  if (absl::Status status = ParseBias(flags.logit_bias, &flags.sampling); !status.ok()) {
    return status;
  }
  absl::StatusOr<ModelFile> file = flags.model.Open();
  if (!file.ok()) return file.status();
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = TokenizerOf(flags.model.folder);
  if (!tokenizer.ok()) return tokenizer.status();
  absl::StatusOr<std::vector<GenerateRequest>> requests =
      MakeRequests(*file, tokenizer->get(), &flags);
  if (!requests.ok()) return requests.status();

  flags.run.TuneFast(*file);
  const auto adapters = flags.adapters.Parse(*file, &flags.run.options);
  if (!adapters.ok()) return adapters.status();

  const auto start = std::chrono::steady_clock::now();
  absl::StatusOr<Opened> opened = OpenModels(*std::move(file), tokenizer->get(), flags);
  if (!opened.ok()) return opened.status();
  Engine engine(std::move(opened->loaded), {.queue = static_cast<int64_t>(requests->size())},
                {.drafter = std::move(opened->drafter)});
  if (absl::Status status = engine.adapters().LoadAll(*adapters); !status.ok()) return status;
  const auto chosen = flags.adapters.Choose(engine.adapters(), requests->size());
  if (!chosen.ok()) return chosen.status();
  for (size_t i = 0; i < requests->size(); ++i) (*requests)[i].adapter = (*chosen)[i];
  std::jthread reading;
  if (!flags.quiet) reading = ShowReading(engine);
  struct Call {
    uint64_t id;
    int32_t blanks;
    std::shared_ptr<Sink> sink;
  };
  std::vector<Call> calls;
  for (GenerateRequest& request : *requests) {
    const int32_t blanks = static_cast<int32_t>(request.prompt.blanks.size());
    auto sink = std::make_shared<Sink>(Engine::MaxEvents(request), flags.sampling.logprobs);
    absl::StatusOr<uint64_t> id = engine.Submit(std::move(request), sink);
    if (!id.ok()) return id.status();
    calls.push_back({*id, blanks, std::move(sink)});
  }
  for (const Call& call : calls) {
    absl::Status status =
        WriteOutput(flags, tokenizer->get(), engine, call.id, call.blanks, *call.sink);
    if (!status.ok()) return status;
  }
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (!flags.quiet) PrintSummary(engine, seconds);
  if (!flags.stats_file.empty()) return WriteStats(flags.stats_file, engine, seconds);
  return absl::OkStatus();
}

void AddSampling(CLI::App& command, GenerateFlags& flags) {
  SamplingParams& sampling = flags.sampling;
  command.add_option("--temperature", sampling.temperature, "0 = always the best token")
      ->capture_default_str();
  command.add_option("--top-k", sampling.top_k, "keep the K best tokens; 0 = all")
      ->capture_default_str();
  command.add_option("--top-p", sampling.top_p, "keep the best tokens that make up this much")
      ->capture_default_str();
  command.add_option("--min-p", sampling.min_p, "drop tokens below this share of the best")
      ->capture_default_str();
  command.add_option("--repetition-penalty", sampling.repetition_penalty)->capture_default_str();
  command.add_option("--presence-penalty", sampling.presence_penalty)->capture_default_str();
  command.add_option("--frequency-penalty", sampling.frequency_penalty)->capture_default_str();
  command.add_option("--logit-bias", flags.logit_bias, "added to a token's logit; repeatable")
      ->type_name("ID:BIAS");
  AddSeed(command, "--seed", &sampling.seed, "of the random choices");
  command.add_option("--stop", flags.stops, "end before this text; repeatable")->type_name("TEXT");
  command.add_option("--stop-id", flags.stop_ids, "end a blank before this token; repeatable")
      ->type_name("ID");
  command.add_flag("--ignore-end", flags.ignore_end, "go on after the model's own end tokens");
}

}  // namespace

void AddGenerate(CLI::App& app, Run* run) {
  auto flags = std::make_shared<GenerateFlags>();
  CLI::App* command = app.add_subcommand("generate", "continue prompts or fill their blanks");
  flags->model.Add(*command, "--synth");
  command->add_option("--prompt", flags->prompts, "text; repeatable, all run together")
      ->type_name("TEXT");
  command->add_option("--prompt-ids", flags->prompt_ids, "token ids; repeatable")
      ->type_name("5,6,7");
  command->add_option("--max-tokens", flags->max_tokens, "of each blank")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  AddSampling(*command, *flags);
  flags->run.Add(*command);
  flags->run.AddGuesses(*command);
  command
      ->add_option("--draft-model", flags->draft_folder,
                   "a small model of the same vocabulary, which makes the guesses that what was "
                   "said before does not; the same tokens come [none]")
      ->type_name("DIR");
  flags->adapters.Add(*command,
                      "adapter of all prompts, or repeated of each; - is none [the only one]");
  command->add_option("--context", flags->context, "tokens of one sequence [what is needed]")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 24));
  command->add_option("--batch", flags->batch, "sequences at once [all prompts]")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 16));
  command->add_flag("--ids", flags->print_ids, "print token ids although there is a tokenizer");
  command->add_flag("--quiet", flags->quiet, "no summary on standard error");
  command->add_option("--stats", flags->stats_file, "write what was measured, as JSON")
      ->type_name("FILE");
  command->footer(
      "Text goes to standard output as it comes. A model without tokenizer prints ids, one line\n"
      "a prompt. In a prompt for GLM, [MASK], [sMASK] and [gMASK] are blanks to fill.\n"
      "Examples:\n"
      "  qianyi generate --model models/glm-10b-chinese --prompt '床前[MASK]，疑是地上霜。'\n"
      "  qianyi generate --synth glm-4-9b --host-memory 3GiB --prompt-ids 5,6,7 --max-tokens 8");
  command->callback([=] { *run = [=] { return RunGenerate(*flags); }; });
}

}  // namespace qianyi
