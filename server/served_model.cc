#include "server/served_model.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <optional>
#include <system_error>
#include <utility>

#include "absl/strings/str_format.h"
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

// What a model has besides weights and engine. It is in memory before the plan is made, which
// therefore counts it with the process.
absl::StatusOr<std::unique_ptr<ServedModel>> Prepare(const NamedModelFile& named,
                                                     const PictureConfig* picture) {
  auto model = std::make_unique<ServedModel>();
  model->name = named.name;
  if (picture != nullptr) model->picture = std::make_unique<PictureConfig>(*picture);
  absl::StatusOr<Prompts> prompts = Prompts::Of(named.file.spec);
  if (!prompts.ok()) return prompts.status();
  model->prompts = *std::move(prompts);
  if (named.folder.empty()) return model;
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = OpenTokenizer(named.folder);
  if (!tokenizer.ok() && !absl::IsNotFound(tokenizer.status())) return tokenizer.status();
  if (!tokenizer.ok()) return model;
  model->tokenizer = *std::move(tokenizer);
  if (picture != nullptr) return model;
  model->verse = std::make_unique<VerseTokens>(*model->tokenizer);
  model->trie = std::make_unique<TokenTrie>(*model->tokenizer);
  return model;
}

absl::Status OpenVqvae(const NamedModelFile& named, int64_t grid, int threads, ServedModel* model) {
  if (model->picture == nullptr || !HasVqvae(named)) return absl::OkStatus();
  absl::StatusOr<std::unique_ptr<Vqvae>> vqvae = Vqvae::Open(named.folder, grid, threads);
  if (!vqvae.ok()) return vqvae.status();
  model->vqvae = *std::move(vqvae);
  if (model->vqvae->config().n_embed >= model->picture->image_tokens) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("its VQ-VAE has %d codes, but config.json has num_image_tokens %d",
                      model->vqvae->config().n_embed, model->picture->image_tokens));
}

// A model that runs ahead of another, and its use.
struct Draft {
  ModelFile file;
  LoadOptions load;
};

absl::StatusOr<std::optional<Draft>> OpenDraft(const NamedModelFile& named,
                                               const Tokenizer* tokenizer, LoadOptions load) {
  if (named.draft_folder.empty()) return std::optional<Draft>();
  absl::StatusOr<ModelFile> file =
      Drafter::OpenFile(named.draft_folder, named.file.spec, tokenizer, load.context_tokens);
  if (!file.ok()) return file.status();
  return Draft{*std::move(file), Drafter::OptionsFor(std::move(load))};
}

// Whether what its prompts begin with is kept on disk as well.
bool UsesDisk(const ServeModelOptions& options, bool pictures) {
  return options.keeps_prefixes && options.prefix_bytes > 0 && !pictures;
}

// Loads the weights of a prepared model by its plan, and of its draft model by that one's.
absl::Status Open(NamedModelFile named, Plan plan, int64_t grid, ComputeShare::Member* share,
                  std::optional<Draft> draft, Plan draft_plan, const ServeModelOptions& options,
                  ServedModel* model) {
  absl::Status status = OpenVqvae(named, grid, options.load.threads, model);
  if (!status.ok()) return status;
  model->queue = options.queue;
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  model->created_seconds = std::chrono::duration_cast<std::chrono::seconds>(now).count();
  LoadOptions load = options.load;
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
  if (draft.has_value()) {
    draft->load.share = share;
    absl::StatusOr<std::unique_ptr<LoadedModel>> small =
        LoadedModel::Open(std::move(draft->file), std::move(draft_plan), draft->load);
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

}  // namespace

absl::StatusOr<std::vector<std::unique_ptr<ServedModel>>> OpenModels(
    std::vector<NamedModelFile> files, const ServeModelOptions& options) {
  std::vector<ModelUse> uses;
  std::vector<std::optional<PictureConfig>> pictures;
  bool any_magnifies = false;
  for (const NamedModelFile& file : files) {
    absl::StatusOr<std::optional<PictureConfig>> picture = PictureConfigOf(file.file.spec);
    if (!picture.ok()) return Named(file.name, picture.status());
    any_magnifies |= picture->has_value() && (*picture)->magnifies;
    pictures.push_back(*std::move(picture));
  }
  for (size_t i = 0; i < files.size(); ++i) {
    for (size_t j = 0; j < i; ++j) {
      if (files[i].name != files[j].name) continue;
      return absl::InvalidArgumentError(
          absl::StrFormat("two models are named %s; rename one of the folders", files[i].name));
    }
    LoadOptions load = options.load;
    const PictureConfig* picture = pictures[i].has_value() ? &*pictures[i] : nullptr;
    load.context_tokens = ContextOf(files[i].file.spec, picture, load.context_tokens);
    if (picture != nullptr) load.guesses = 0;  // codes do not repeat themselves
    if (picture != nullptr && HasVqvae(files[i])) {
      absl::StatusOr<uint64_t> bytes =
          Vqvae::MemoryBytes(files[i].folder, LargestGrid(*picture, any_magnifies));
      if (!bytes.ok()) return Named(files[i].name, bytes.status());
      load.picture_bytes = *bytes + options.upload_bytes;
    }
    uses.push_back(UseOf(files[i].file, load));
    if (load.adapter_bytes > 0) continue;
    absl::StatusOr<uint64_t> needed =
        AdapterBytes(files[i].adapters, files[i].file, uses.back().kv_dtype);
    if (!needed.ok()) return Named(files[i].name, needed.status());
    uses.back().adapter_bytes = *needed + options.spare_adapter_bytes;
  }
  std::vector<std::unique_ptr<ServedModel>> models;
  std::vector<std::optional<Draft>> drafts;
  for (size_t i = 0; i < files.size(); ++i) {
    if (pictures[i].has_value() && !files[i].draft_folder.empty()) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "model %s: it makes pictures, and --draft-model is for models of text", files[i].name));
    }
    auto model = Prepare(files[i], pictures[i].has_value() ? &*pictures[i] : nullptr);
    if (!model.ok()) return Named(files[i].name, model.status());
    models.push_back(*std::move(model));
    LoadOptions load = options.load;
    load.context_tokens = uses[i].context_tokens;
    auto draft = OpenDraft(files[i], models.back()->tokenizer.get(), std::move(load));
    if (!draft.ok()) return Named(files[i].name, draft.status());
    drafts.push_back(*std::move(draft));
  }
  std::vector<size_t> draft_plans(files.size(), 0);
  for (size_t i = 0; i < files.size(); ++i) {
    if (!drafts[i].has_value()) continue;
    draft_plans[i] = uses.size();
    uses.push_back(UseOf(drafts[i]->file, drafts[i]->load));
  }
  MemoryBudget budget = HostBudget(options.load);
  for (size_t i = 0; i < files.size(); ++i) {
    if (!UsesDisk(options, pictures[i].has_value())) continue;
    budget.process_bytes += PageFile::IndexBytes(
        options.prefix_bytes, KvCache::PageBytes(files[i].file.spec.kv, uses[i].kv_dtype));
  }
  absl::StatusOr<Plan> plan = MakePlan(uses, budget);
  if (!plan.ok()) return plan.status();
  for (size_t i = 0; i < files.size(); ++i) {
    const std::string name = files[i].name;
    const int64_t grid = pictures[i].has_value() ? LargestGrid(*pictures[i], any_magnifies) : 0;
    ComputeShare::Member* share = options.share == nullptr || files.size() == 1
                                      ? nullptr
                                      : options.share->Add(files[i].weight);
    Plan draft_plan{plan->budget, {plan->models[draft_plans[i]]}};  // unused where there is none
    absl::Status status =
        Open(std::move(files[i]), Plan{plan->budget, {plan->models[i]}}, grid, share,
             std::move(drafts[i]), std::move(draft_plan), options, models[i].get());
    if (!status.ok()) return Named(name, status);
  }
  return models;
}

}  // namespace qianyi
