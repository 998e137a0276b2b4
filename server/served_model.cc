#include "server/served_model.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <optional>
#include <system_error>
#include <utility>

#include "absl/strings/str_format.h"
#include "runtime/choose_batch.h"
#include "runtime/known_rates.h"
#include "runtime/measure.h"
#include "runtime/memory_size.h"
#include "runtime/pictures/painter.h"

namespace qianyi {
namespace {

constexpr int64_t kDefaultContextTokens = 2048;

// A GLM's prompt and its blanks each have positions of their own.
int64_t ContextOf(const ModelSpec& spec, const PictureConfig* picture, int64_t asked) {
  if (picture != nullptr) return PictureContext(*picture);
  if (asked > 0) return asked;
  return std::min(kDefaultContextTokens, spec.max_positions * (spec.bidirectional ? 2 : 1));
}

absl::Status Named(const std::string& name, const absl::Status& status) {
  return absl::Status(status.code(),
                      absl::StrFormat("model %s: %s", name, std::string(status.message())));
}

// Pictures of it may be magnified where some model here does that.
int64_t LargestGrid(const PictureConfig& picture, bool any_magnifies) {
  return any_magnifies && 2 * picture.grid <= kMaxGrid ? 2 * picture.grid : picture.grid;
}

bool HasVqvae(const NamedModelFile& file) {
  std::error_code error;
  return !file.folder.empty() && std::filesystem::is_directory(file.folder + "/vqvae", error);
}

// A model that is about to be opened: what is known without its weights.
struct Opening {
  NamedModelFile named;
  std::optional<PictureConfig> picture = std::nullopt;
  LoadOptions load = {};  // but for the batch, which is the same for all
  std::unique_ptr<ServedModel> model = nullptr;
  std::optional<ModelFile> draft = std::nullopt;  // of the model that runs ahead of it
};

// Of the models, then of their drafts.
std::vector<ModelUse> UsesOf(const std::vector<Opening>& openings, int64_t batch) {
  std::vector<ModelUse> uses;
  for (const Opening& opening : openings) {
    LoadOptions load = opening.load;
    load.batch = batch;
    uses.push_back(UseOf(opening.named.file, load));
  }
  for (const Opening& opening : openings) {
    if (!opening.draft.has_value()) continue;
    LoadOptions load = opening.load;
    load.batch = batch;
    uses.push_back(UseOf(*opening.draft, Drafter::OptionsFor(load)));
  }
  return uses;
}

// How the model is to be used.
absl::Status SetLoad(const ServeModelOptions& options, bool any_magnifies, Opening* opening) {
  const NamedModelFile& named = opening->named;
  const PictureConfig* picture = opening->picture.has_value() ? &*opening->picture : nullptr;
  LoadOptions& load = opening->load;
  load = options.load;
  load.context_tokens = ContextOf(named.file.spec, picture, load.context_tokens);
  if (picture != nullptr) load.guesses = 0;  // codes do not repeat themselves
  if (picture != nullptr && HasVqvae(named)) {
    absl::StatusOr<uint64_t> bytes =
        Vqvae::MemoryBytes(named.folder, LargestGrid(*picture, any_magnifies));
    if (!bytes.ok()) return bytes.status();
    load.picture_bytes = *bytes + options.upload_bytes;
  }
  if (load.adapter_bytes > 0) return absl::OkStatus();
  absl::StatusOr<uint64_t> needed =
      AdapterBytes(named.adapters, named.file, UseOf(named.file, load).kv_dtype);
  if (!needed.ok()) return needed.status();
  load.adapter_bytes = *needed + options.spare_adapter_bytes;
  return absl::OkStatus();
}

// What a model has besides weights and engine. It is in memory before the plan is made, which
// therefore counts it with the process.
absl::Status Prepare(Opening* opening) {
  const NamedModelFile& named = opening->named;
  auto model = std::make_unique<ServedModel>();
  model->name = named.name;
  if (opening->picture.has_value()) {
    model->picture = std::make_unique<PictureConfig>(*opening->picture);
  }
  absl::StatusOr<Prompts> prompts = Prompts::Of(named.file.spec);
  if (!prompts.ok()) return prompts.status();
  model->prompts = *std::move(prompts);
  opening->model = std::move(model);
  if (named.folder.empty()) return absl::OkStatus();
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = OpenTokenizer(named.folder);
  if (absl::IsNotFound(tokenizer.status())) return absl::OkStatus();
  if (!tokenizer.ok()) return tokenizer.status();
  ServedModel& prepared = *opening->model;
  prepared.tokenizer = *std::move(tokenizer);
  if (prepared.picture != nullptr) return absl::OkStatus();
  prepared.verse = std::make_unique<VerseTokens>(*prepared.tokenizer);
  prepared.trie = std::make_unique<TokenTrie>(*prepared.tokenizer);
  return absl::OkStatus();
}

absl::Status OpenDraft(Opening* opening) {
  const NamedModelFile& named = opening->named;
  if (named.draft_folder.empty()) return absl::OkStatus();
  if (opening->picture.has_value()) {
    return absl::InvalidArgumentError("it makes pictures, and --draft-model is for models of text");
  }
  absl::StatusOr<ModelFile> file =
      Drafter::OpenFile(named.draft_folder, named.file.spec, opening->model->tokenizer.get(),
                        opening->load.context_tokens);
  if (!file.ok()) return file.status();
  opening->draft = *std::move(file);
  return absl::OkStatus();
}

absl::Status OpenVqvae(const NamedModelFile& named, int64_t grid, const LoadOptions& load,
                       ServedModel* model) {
  if (model->picture == nullptr || !HasVqvae(named)) return absl::OkStatus();
  absl::StatusOr<std::unique_ptr<Vqvae>> vqvae = Vqvae::Open(
      named.folder, grid, load.threads, load.backend != nullptr ? *load.backend : Cpu());
  if (!vqvae.ok()) return vqvae.status();
  model->vqvae = *std::move(vqvae);
  if (model->vqvae->config().n_embed >= model->picture->image_tokens) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("its VQ-VAE has %d codes, but config.json has num_image_tokens %d",
                      model->vqvae->config().n_embed, model->picture->image_tokens));
}

// Whether what its prompts begin with is kept on disk as well.
bool UsesDisk(const ServeModelOptions& options, bool pictures) {
  return options.keeps_prefixes && options.prefix_bytes > 0 && !pictures;
}

MemoryBudget BudgetOf(const std::vector<Opening>& openings, const ServeModelOptions& options) {
  MemoryBudget budget = HostBudget(options.load);
  for (const Opening& opening : openings) {
    if (!UsesDisk(options, opening.picture.has_value())) continue;
    const ModelFile& file = opening.named.file;
    budget.process_bytes += PageFile::IndexBytes(
        options.prefix_bytes, KvCache::PageBytes(file.spec.kv, UseOf(file, opening.load).kv_dtype));
  }
  return budget;
}

// What bounds each model on this machine: as far as it is known, or measured where that is asked
// for or needed.
absl::Status FindRates(const ServeModelOptions& options, std::vector<Opening>* openings) {
  using Measures = KnownRates::Measures;
  const bool for_batch = options.load.batch == kAutoBatch;
  const MemoryBudget budget = BudgetOf(*openings, options);
  if ((for_batch || options.measures) && budget.host_bytes < budget.process_bytes + kMeasureBytes) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s measures in %s of RAM, and --host-memory is %s; %s",
        for_batch ? "--batch auto" : "--measure", FormatSize(budget.process_bytes + kMeasureBytes),
        FormatSize(budget.host_bytes), for_batch ? "give a number" : "leave it out"));
  }
  const int threads = WorkerThreads(options.load.threads);
  KnownRates known(KnownRates::DefaultFile(), MachineName(),
                   options.measures ? Measures::kAll
                   : for_batch      ? Measures::kUnknown
                                    : Measures::kNothing);
  for (Opening& opening : *openings) {
    const ModelFile& file = opening.named.file;
    absl::StatusOr<Rates> rates = RatesOf(known, {}, file.tensors.back().format, threads,
                                          options.load.backend, WeightsPath(file));
    if (!rates.ok()) return Named(opening.named.name, rates.status());
    opening.model->rates = *rates;
  }
  return absl::OkStatus();
}

// What this machine gets most tokens/s from, by the rates of the first model.
absl::StatusOr<int64_t> MeasuredBatch(const std::vector<Opening>& openings,
                                      const ServeModelOptions& options) {
  const MemoryBudget budget = BudgetOf(openings, options);
  return ChooseBatch(
      [&](int64_t batch) -> absl::StatusOr<Plan> {
        return MakePlan(UsesOf(openings, batch), budget);
      },
      openings[0].model->rates, /*cpu_rows=*/false);
}

// Loads the weights of a prepared model by its plan, and of its draft model by that one's.
absl::Status Open(Opening opening, Plan plan, int64_t grid, ComputeShare::Member* share,
                  Plan draft_plan, const ServeModelOptions& options, ServedModel* model) {
  NamedModelFile& named = opening.named;
  absl::Status status = OpenVqvae(named, grid, options.load, model);
  if (!status.ok()) return status;
  model->queue = options.queue;
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  model->created_seconds = std::chrono::duration_cast<std::chrono::seconds>(now).count();
  LoadOptions& load = opening.load;
  load.batch = plan.models[0].use.batch;
  load.share = share;
  model->share = share;
  if (share != nullptr && model->vqvae != nullptr) {
    ComputeShare::Member* const pictures = options.share->Add(named.weight);
    model->vqvae->UseShare(pictures);
    model->picture_share = pictures;
  }
  absl::StatusOr<std::unique_ptr<LoadedModel>> loaded =
      LoadedModel::Open(std::move(named.file), std::move(plan), load);
  if (!loaded.ok()) return loaded.status();
  Engine::Parts parts;
  if (UsesDisk(options, model->picture != nullptr)) {
    auto file =
        PageFile::Create(options.prefix_folder, options.prefix_bytes, (*loaded)->kv().page_bytes());
    if (!file.ok()) return file.status();
    parts.page_file = *std::move(file);
  }
  if (opening.draft.has_value()) {
    absl::StatusOr<std::unique_ptr<LoadedModel>> small = LoadedModel::Open(
        *std::move(opening.draft), std::move(draft_plan), Drafter::OptionsFor(load));
    if (!small.ok()) return small.status();
    parts.drafter = std::make_unique<Drafter>(*std::move(small));
  }
  // Each candidate of each request about pictures waits for its score by itself. Of text, all that
  // admission lets in may wait for a moment, until the engine has looked.
  const int64_t more = model->picture == nullptr ? load.batch : kMostPictureCalls * load.batch;
  model->engine = std::make_unique<Engine>(*std::move(loaded),
                                           EngineOptions{.queue = options.queue + more,
                                                         .keeps_prefixes = options.keeps_prefixes,
                                                         .prompt_stretch = options.prompt_stretch},
                                           std::move(parts));
  return model->engine->adapters().LoadAll(named.adapters);
}

absl::StatusOr<std::vector<Opening>> Describe(std::vector<NamedModelFile> files,
                                              const ServeModelOptions& options,
                                              bool* any_magnifies) {
  std::vector<Opening> openings;
  *any_magnifies = false;
  for (NamedModelFile& file : files) {
    for (const Opening& other : openings) {
      if (file.name != other.named.name) continue;
      return absl::InvalidArgumentError(
          absl::StrFormat("two models are named %s; rename one of the folders", file.name));
    }
    absl::StatusOr<std::optional<PictureConfig>> picture = PictureConfigOf(file.file.spec);
    if (!picture.ok()) return Named(file.name, picture.status());
    *any_magnifies |= picture->has_value() && (*picture)->magnifies;
    openings.push_back({.named = std::move(file), .picture = *std::move(picture)});
  }
  for (Opening& opening : openings) {
    absl::Status status = SetLoad(options, *any_magnifies, &opening);
    if (status.ok()) status = Prepare(&opening);
    if (status.ok()) status = OpenDraft(&opening);
    if (!status.ok()) return Named(opening.named.name, status);
  }
  return openings;
}

}  // namespace

absl::StatusOr<std::vector<std::unique_ptr<ServedModel>>> OpenModels(
    std::vector<NamedModelFile> files, const ServeModelOptions& options) {
  bool any_magnifies = false;
  absl::StatusOr<std::vector<Opening>> openings =
      Describe(std::move(files), options, &any_magnifies);
  if (!openings.ok()) return openings.status();
  absl::Status status = FindRates(options, &*openings);
  if (!status.ok()) return status;
  int64_t batch = options.load.batch;
  if (batch == kAutoBatch) {
    absl::StatusOr<int64_t> chosen = MeasuredBatch(*openings, options);
    if (!chosen.ok()) return chosen.status();
    batch = *chosen;
  }
  absl::StatusOr<Plan> plan = MakePlan(UsesOf(*openings, batch), BudgetOf(*openings, options));
  if (!plan.ok()) return plan.status();
  std::vector<std::unique_ptr<ServedModel>> models;
  size_t next_draft = openings->size();  // where its plan is
  for (size_t i = 0; i < openings->size(); ++i) {
    Opening& opening = (*openings)[i];
    const std::string name = opening.named.name;
    const int64_t grid =
        opening.picture.has_value() ? LargestGrid(*opening.picture, any_magnifies) : 0;
    ComputeShare::Member* share = options.share == nullptr || openings->size() == 1
                                      ? nullptr
                                      : options.share->Add(opening.named.weight);
    Plan draft_plan{plan->budget, {}};
    if (opening.draft.has_value()) draft_plan.models.push_back(plan->models[next_draft++]);
    models.push_back(std::move(opening.model));
    status = Open(std::move(opening), Plan{plan->budget, {plan->models[i]}}, grid, share,
                  std::move(draft_plan), options, models.back().get());
    if (!status.ok()) return Named(name, status);
  }
  return models;
}

}  // namespace qianyi
