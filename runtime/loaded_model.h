// A model with everything it needs to run: plan, weights, cache, working memory.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "runtime/adapters/adapter_set.h"
#include "runtime/compute_share.h"
#include "runtime/kv_cache.h"
#include "runtime/model.h"
#include "runtime/pass.h"
#include "runtime/plan.h"
#include "runtime/sequence.h"
#include "runtime/step_threads.h"
#include "runtime/storage/weight_store.h"

namespace qianyi {

// `threads`, or one per core where it is 0.
int WorkerThreads(int threads);

struct LoadOptions {
  uint64_t host_bytes = 0;        // 0 = 80% of what the machine or its cgroup has
  uint64_t process_bytes = 0;     // of which the program itself needs; 0 = as measured
  int64_t context_tokens = 2048;  // of one sequence
  int64_t batch = 1;              // sequences at once
  int64_t prompt_tokens = 512;    // of prompts in one step
  int64_t logit_rows = 0;         // 0 = batch, guesses and branches
  int64_t guesses = 0;            // tokens of all sequences that are guessed ahead in one step
  int64_t branches = 0;           // tokens that are tried beside them; without guesses, none
  int threads = 0;                // 0 = one per core
  std::optional<DType> kv_dtype =
      std::nullopt;  // f32, f16, i8; none: f32 for f32 weights, else f16
  ReaderOptions reader = {};
  uint64_t adapter_bytes = 0;        // for all adapters loaded at one time; 0 = none can be
  const Backend* backend = nullptr;  // a device with memory of its own; null = the CPU
  uint64_t device_bytes = 0;         // that the process may take of it; 0 = 95% of what is free
  double host_rows = 0;              // ModelUse::host_rows
  bool graphs = true;                // on a device: Pass::Limits::graphs, where that holds
  int64_t sparse_slots = 0;          // ModelUse::sparse_slots
  uint64_t picture_bytes = 0;        // of the VQ-VAE that belongs to a picture model
  // This model's turn among others on the same processors; null: it has them for itself. Outlives
  // the model.
  ComputeShare::Member* share = nullptr;
};

// 80% of what the machine or its cgroup has.
uint64_t DefaultHostBytes();
// The use that `options` mean for `file`, and the budget, with what this process takes already.
ModelUse UseOf(const ModelFile& file, const LoadOptions& options);
MemoryBudget HostBudget(const LoadOptions& options);

// One thread runs it; it need not be the one that opened it.
class LoadedModel {
 public:
  // `readers` empty: the files named in `file`. Errors as of MakePlan and WeightStore::Open.
  static absl::StatusOr<std::unique_ptr<LoadedModel>> Open(ModelFile file,
                                                           const LoadOptions& options,
                                                           ReaderFactory readers = {});
  // By a plan of this one model that was made already (its `use.file` is set anew).
  static absl::StatusOr<std::unique_ptr<LoadedModel>> Open(ModelFile file, Plan plan,
                                                           const LoadOptions& options,
                                                           ReaderFactory readers = {});
  ~LoadedModel();

  const Model& model() const { return *model_; }
  const Plan& plan() const { return plan_; }
  WeightStore& store() { return *store_; }
  KvCache& kv() { return *kv_; }
  Pass& pass() { return *pass_; }
  AdapterSet& adapters() { return *adapters_; }

  // Sets what `sequence` runs with (null: the model alone). It is to have no pages yet.
  static void Attach(const Adapter* adapter, Sequence* sequence);
  // Pages for the sequence's adapter and `tokens` of its own; false when there are too few.
  bool Reserve(int64_t tokens, Sequence* sequence);

  // Called after each stage, when `observe` is set: stage and the pass.
  using Observer = std::function<void(int stage, Pass& pass)>;
  // Runs all stages over the step; logits are in pass().host_logits() afterwards. DataLoss as of
  // Model::Run; Internal when the device failed, which it does for good.
  absl::Status Run(const Step& step, const Observer& observe = {});
  // Whether Run draws the tokens that Step::draws asks for.
  bool draws_tokens() const { return backend_.draw_tokens != nullptr; }
  // With how many threads the last step computed; 0 on a device.
  int step_threads() const { return step_threads_; }

 private:
  explicit LoadedModel(const Backend& backend) : backend_(backend) {}
  absl::Status RunStages(const Step& step, const Observer& observe);

  const Backend& backend_;
  ComputeShare::Member* share_ = nullptr;  // null also on a device, which has queues of its own
  Stream stream_;
  int step_threads_ = 0;
  std::optional<StepThreads> choice_;  // none where all weights stay in memory
  Plan plan_;
  std::unique_ptr<WeightStore> store_;
  std::unique_ptr<DeviceWeights> device_;  // null on the CPU
  std::unique_ptr<Model> model_;
  std::unique_ptr<KvCache> kv_;
  std::unique_ptr<AdapterSet> adapters_;
  std::unique_ptr<Pass> pass_;
};

}  // namespace qianyi
