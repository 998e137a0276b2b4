#include "runtime/loaded_model.h"

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "absl/strings/str_format.h"
#include "runtime/memory_size.h"
#include "runtime/models/registry.h"

namespace qianyi {
namespace {

// Stacks, queues, tokenizers and what else comes after the plan was made.
constexpr uint64_t kProcessSlackBytes = 24ull << 20;

using Clock = std::chrono::steady_clock;

bool StreamsWeights(const ModelPlan& plan) {
  return plan.disk_bytes > 0 || plan.expert_cache_bytes < plan.expert_bytes;
}

// Nothing of a step waits for the link or for the host.
bool StaysOnDevice(const ModelPlan& plan) {
  return plan.device_bytes == plan.weight_bytes && plan.device_expert_bytes == plan.expert_bytes;
}

bool StoredAsF32(const ModelFile& file) {
  return std::all_of(file.tensors.begin(), file.tensors.end(),
                     [](const StoredTensor& tensor) { return tensor.format.dtype == DType::kF32; });
}

absl::Status CheckDevice(const ModelSpec& spec, const Backend& backend) {
  const int64_t dim = std::max<int64_t>(spec.kv.key_dim, spec.kv.value_dim);
  if (backend.max_head_dim == 0 || dim <= backend.max_head_dim) return absl::OkStatus();
  return absl::UnimplementedError(
      absl::StrFormat("attention heads have %d dimensions; on %s there may be %d; use --device cpu",
                      dim, backend.name, backend.max_head_dim));
}

}  // namespace

int WorkerThreads(int threads) {
  return threads > 0 ? threads
                     : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

uint64_t DefaultHostBytes() { return AvailableMemoryBytes() / 5 * 4; }

ModelUse UseOf(const ModelFile& file, const LoadOptions& options) {
  const int64_t branches = options.guesses > 0 ? options.branches : 0;
  const int64_t logit_rows = options.batch + options.guesses + branches;
  return {.file = &file,
          .context_tokens = options.context_tokens,
          .batch = options.batch,
          .prompt_tokens = options.prompt_tokens,
          .logit_rows = options.logit_rows > 0 ? options.logit_rows : logit_rows,
          .branches = options.logit_rows > 0 ? 0 : branches,
          .kv_dtype = options.kv_dtype.value_or(StoredAsF32(file) ? DType::kF32 : DType::kF16),
          .adapter_bytes = options.adapter_bytes,
          .picture_bytes = options.picture_bytes,
          .sparse_slots = options.sparse_slots,
          .host_rows = options.backend != nullptr ? options.host_rows : 0};
}

MemoryBudget HostBudget(const LoadOptions& options) {
  uint64_t device_bytes = 0, library_bytes = 0;
  if (options.backend != nullptr) {
    library_bytes = options.backend->library_bytes;
    size_t total = 0, free = 0;
    options.backend->memory_info(&total, &free);
    device_bytes = options.device_bytes > 0 ? options.device_bytes : free / 20 * 19;
  }
  return {.host_bytes = options.host_bytes > 0 ? options.host_bytes : DefaultHostBytes(),
          .device_bytes = device_bytes,
          .process_bytes = options.process_bytes > 0 ? options.process_bytes
                                                     : ResidentBytes() + kProcessSlackBytes,
          .library_bytes = library_bytes};
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
  const Backend& backend = options.backend != nullptr ? *options.backend : Cpu();
  if (absl::Status status = CheckDevice(file.spec, backend); !status.ok()) return status;
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
  if (backend.host_memory) {
    loaded->share_ = options.share;
    loaded->store_->Observe(options.share);
  }
  const int threads = WorkerThreads(options.threads);
  loaded->stream_ = backend.create_stream(threads);
  if (backend.host_memory) {
    loaded->step_threads_ = threads;
    if (StreamsWeights(loaded->plan_.models[0])) loaded->choice_.emplace(threads);
  }
  if (!backend.host_memory) {
    absl::StatusOr<std::unique_ptr<DeviceWeights>> device = DeviceWeights::Create(
        *loaded->store_, loaded->plan_.models[0], readers, backend, loaded->stream_);
    if (!device.ok()) return device.status();
    loaded->device_ = *std::move(device);
  }
  const ModelFile& opened = loaded->store_->file();
  loaded->plan_.models[0].use.file = use.file = &opened;

  // Pages of prefixes take memory only where they are written.
  const int64_t shared_pages = static_cast<int64_t>(
      use.adapter_bytes / std::max<size_t>(1, KvCache::PageBytes(opened.spec.kv, use.kv_dtype)));
  absl::StatusOr<std::unique_ptr<KvCache>> kv =
      KvCache::Create(opened.spec.kv, use.kv_dtype, KvPages(use), backend, shared_pages,
                      loaded->plan_.models[0].kv_mapped_layers);
  if (!kv.ok()) return kv.status();
  loaded->kv_ = *std::move(kv);
  loaded->kv_->UseStream(loaded->stream_);
  if (loaded->plan_.models[0].lendable_bytes > 0) {
    loaded->kv_->Lend([store = loaded->store_.get()](uint64_t bytes) { store->Lend(bytes); });
  }
  loaded->adapters_ =
      std::make_unique<AdapterSet>(use.adapter_bytes, opened, *loaded->kv_, backend);
  Pass::Limits limits = Pass::LimitsOf(use, !backend.host_memory);
  if (opened.spec.experts.total > 0 || use.host_rows > 0) limits.host_threads = threads;
  limits.device_experts = loaded->plan_.models[0].device_expert_bytes > 0;
  limits.graphs = options.graphs && StaysOnDevice(loaded->plan_.models[0]);
  absl::StatusOr<std::unique_ptr<Pass>> pass =
      Pass::Create(opened.spec, limits, *loaded->store_, loaded->device_.get(), *loaded->kv_,
                   backend, loaded->stream_);
  if (!pass.ok()) return pass.status();
  loaded->pass_ = *std::move(pass);
  return loaded;
}

LoadedModel::~LoadedModel() {
  pass_.reset();
  device_.reset();
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
  kv_->LendIdle();
  if (!choice_) return RunStages(step, observe);
  const auto waited = [this] { return share_ == nullptr ? 0 : share_->stats().wait_seconds; };
  const Clock::time_point begin = Clock::now();
  const WeightStoreStats before = store_->stats();
  const double waited_before = waited();
  step_threads_ = choice_->Of(step.size());
  backend_.use_threads(stream_, step_threads_);
  const absl::Status status = RunStages(step, observe);
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  const WeightStoreStats after = store_->stats();
  // A step in which the resident set was still being read says nothing about the others.
  if (after.resident_bytes == before.resident_bytes) {
    choice_->Took(step.size(), seconds - (waited() - waited_before),
                  after.stall_seconds - before.stall_seconds);
  }
  return status;
}

absl::Status LoadedModel::RunStages(const Step& step, const Observer& observe) {
  ComputeTurn turn(share_);
  pass_->Begin(step, /*watched=*/observe != nullptr);
  absl::Status status;
  for (int stage = 0; stage < model_->stages() && status.ok(); ++stage) {
    if (stage > 0) turn.Yield();
    status = model_->Run(stage, step, *pass_);
    if (status.ok() && observe) observe(stage, *pass_);
  }
  if (status.ok() && step.wants_hidden) model_->FinalNorm(pass_->hidden(), *pass_);
  pass_->End(step, status.ok() && step.wants_hidden);
  if (backend_.failed()) {
    return absl::InternalError(absl::StrFormat(
        "the device (%s) failed; the program must be started again", backend_.variant));
  }
  return status;
}

}  // namespace qianyi
