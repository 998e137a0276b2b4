#include "runtime/loaded_model.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "runtime/memory_size.h"
#include "runtime/models/registry.h"

namespace qianyi {
namespace {

// Stacks, queues, tokenizers and what else comes after the plan was made.
constexpr uint64_t kProcessSlackBytes = 24ull << 20;

bool StoredAsF32(const ModelFile& file) {
  return std::all_of(file.tensors.begin(), file.tensors.end(),
                     [](const StoredTensor& tensor) { return tensor.format.dtype == DType::kF32; });
}

}  // namespace

uint64_t DefaultHostBytes() { return AvailableMemoryBytes() / 5 * 4; }

ModelUse UseOf(const ModelFile& file, const LoadOptions& options) {
  return {.file = &file,
          .context_tokens = options.context_tokens,
          .batch = options.batch,
          .prompt_tokens = options.prompt_tokens,
          .logit_rows = options.logit_rows,
          .kv_dtype = options.kv_dtype.value_or(StoredAsF32(file) ? DType::kF32 : DType::kF16),
          .adapter_bytes = options.adapter_bytes,
          .picture_bytes = options.picture_bytes};
}

MemoryBudget HostBudget(const LoadOptions& options) {
  return {.host_bytes = options.host_bytes > 0 ? options.host_bytes : DefaultHostBytes(),
          .process_bytes = options.process_bytes > 0 ? options.process_bytes
                                                     : ResidentBytes() + kProcessSlackBytes};
}

absl::StatusOr<std::unique_ptr<LoadedModel>> LoadedModel::Open(ModelFile file,
                                                               const LoadOptions& options,
                                                               ReaderFactory readers) {
  const ModelUse use = UseOf(file, options);
  absl::StatusOr<Plan> plan = MakePlan({&use, 1}, HostBudget(options));
  if (!plan.ok()) return plan.status();
  return Open(std::move(file), *std::move(plan), options, std::move(readers));
}

absl::StatusOr<std::unique_ptr<LoadedModel>> LoadedModel::Open(ModelFile file, Plan plan,
                                                               const LoadOptions& options,
                                                               ReaderFactory readers) {
  const Backend& backend = Cpu();
  std::unique_ptr<LoadedModel> loaded(new LoadedModel(backend));
  absl::StatusOr<std::unique_ptr<Model>> model = CreateModel(file);
  if (!model.ok()) return model.status();
  loaded->model_ = *std::move(model);
  loaded->plan_ = std::move(plan);
  ModelUse use = loaded->plan_.models[0].use;
  if (!readers) readers = WeightStore::FileReaders(file, options.reader);
  absl::StatusOr<std::unique_ptr<WeightStore>> store =
      WeightStore::Open(std::move(file), loaded->plan_.models[0], backend, readers);
  if (!store.ok()) return store.status();
  loaded->store_ = *std::move(store);
  const ModelFile& opened = loaded->store_->file();
  loaded->plan_.models[0].use.file = use.file = &opened;

  // Pages of prefixes take memory only where they are written.
  const int64_t shared_pages = static_cast<int64_t>(
      use.adapter_bytes / std::max<size_t>(1, KvCache::PageBytes(opened.spec.kv, use.kv_dtype)));
  absl::StatusOr<std::unique_ptr<KvCache>> kv =
      KvCache::Create(opened.spec.kv, use.kv_dtype, KvPages(use), backend, shared_pages);
  if (!kv.ok()) return kv.status();
  loaded->kv_ = *std::move(kv);
  loaded->adapters_ =
      std::make_unique<AdapterSet>(use.adapter_bytes, opened, *loaded->kv_, backend);
  const int cores = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  loaded->stream_ = backend.create_stream(options.threads > 0 ? options.threads : cores);
  absl::StatusOr<std::unique_ptr<Pass>> pass = Pass::Create(
      opened.spec, Pass::LimitsOf(use), *loaded->store_, *loaded->kv_, backend, loaded->stream_);
  if (!pass.ok()) return pass.status();
  loaded->pass_ = *std::move(pass);
  return loaded;
}

LoadedModel::~LoadedModel() {
  pass_.reset();
  if (stream_.handle != nullptr) backend_.destroy_stream(stream_);
}

void LoadedModel::Attach(const Adapter* adapter, Sequence* sequence) {
  sequence->adapter = adapter;
  sequence->prefix_slots = adapter == nullptr ? 0 : adapter->prefix().slots;
}

bool LoadedModel::Reserve(int64_t tokens, Sequence* sequence) {
  if (sequence->prefix_slots == 0) return kv_->Reserve(tokens, &sequence->pages);
  return kv_->ReserveAfter(sequence->adapter->prefix(), tokens, &sequence->pages);
}

absl::Status LoadedModel::Run(const Step& step, const Observer& observe) {
  pass_->Begin(step);
  for (int stage = 0; stage < model_->stages(); ++stage) {
    absl::Status status = model_->Run(stage, step, *pass_);
    if (!status.ok()) return status;
    if (observe) observe(stage, *pass_);
  }
  backend_.synchronize(stream_);
  return absl::OkStatus();
}

}  // namespace qianyi
