// Runs a model for many callers at once: the loop, its thread, and all scheduling state.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/branches.h"
#include "runtime/constraint.h"
#include "runtime/drafter.h"
#include "runtime/engine_stats.h"
#include "runtime/fair_line.h"
#include "runtime/generate_request.h"
#include "runtime/generation.h"
#include "runtime/guesses.h"
#include "runtime/loaded_model.h"
#include "runtime/page_worth.h"
#include "runtime/prefix_cache.h"
#include "runtime/prompt_room.h"
#include "runtime/sampler.h"
#include "runtime/sequence.h"
#include "runtime/sink.h"

namespace qianyi {

// Submit and Cancel are thread-safe and never wait. Callers and engine meet only at the inbox
// and at each call's Sink.
class Engine {
 public:
  struct Parts {
    std::unique_ptr<Drafter> drafter = nullptr;     // runs ahead of its sequences, or null
    std::unique_ptr<PageFile> page_file = nullptr;  // for prefixes, or null: in memory only
  };
  Engine(std::unique_ptr<LoadedModel> model, const EngineOptions& options)
      : Engine(std::move(model), options, Parts()) {}
  Engine(std::unique_ptr<LoadedModel> model, const EngineOptions& options, Parts parts);
  ~Engine();  // cancels everything, then returns
  const Model& model() const { return loaded_->model(); }
  const Plan& plan() const { return loaded_->plan(); }
  // Loaded and unloaded on any thread, while steps run.
  AdapterSet& adapters() { return loaded_->adapters(); }
  int64_t queue_limit() const { return options_.queue; }

  // InvalidArgument (names the field and its limit), ResourceExhausted when the queue is full.
  // The id is for Cancel. `sink` must have room for MaxEvents(request). With a `constraint` the
  // prompt has one blank. A sink of dimensions gets the mean of the prompt's final hidden states,
  // and no tokens.
  absl::StatusOr<uint64_t> Submit(GenerateRequest request, std::shared_ptr<Sink> sink,
                                  std::unique_ptr<Constraint> constraint = nullptr);
  // Several generations of one prompt, with their own sampling (that of `request` is not used): the
  // prompt runs once, its pages are shared, and the candidates run in the same steps. They are
  // admitted together, so there are at most as many as places; the id cancels them all.
  struct Candidate {
    SamplingParams sampling;
    std::shared_ptr<Sink> sink;
    std::unique_ptr<Constraint> constraint;  // or null
  };
  absl::StatusOr<uint64_t> Submit(GenerateRequest request, std::vector<Candidate> candidates);
  static int64_t MaxEvents(const GenerateRequest& request);
  // What Submit refuses, without a loaded model. `context_tokens`: room for one sequence.
  static absl::Status Check(const GenerateRequest& request, const ModelSpec& spec,
                            int64_t context_tokens);
  // Its sink is closed with Cancelled; a no-op once finished.
  void Cancel(uint64_t id);

  EngineStats stats() const;
  WeightStoreStats weight_stats() const { return loaded_->store().stats(); }

 private:
  struct Call;
  void Loop();
  absl::StatusOr<uint64_t> Enqueue(std::unique_ptr<Call> call);
  void TakeInbox();
  void Admit();
  bool ReserveAll(Call* call);
  int64_t PagesWanted(const Call& call) const;
  void KeepPrefix(const Call& call);
  void CountPages();
  void CountCached(int64_t tokens);
  void Place(std::unique_ptr<Call> call, bool runs);
  void StartFollowers();
  void RunStep();
  bool Generates(int place) const;
  absl::Status Guess();
  void RepeatWords(int32_t room);
  absl::Status Draft(int32_t room);
  void AddBranches();
  struct Taken;
  void AskForDraws();
  Taken TakeTokens();
  void TakePath(int place, int64_t row, int64_t end, Taken* taken);
  void BeginTaking(Call* call);
  void PoolHidden();
  void RingBells();
  bool TakeToken(Call* call, std::span<float> logits, int32_t drawn);
  void CountStep(const Taken& taken, int64_t begin_nanoseconds);
  void NextBlank(Call* call, FinishReason why);
  void Finish(Call* call, absl::Status status);
  void CloseEnded();
  const std::unique_ptr<LoadedModel> loaded_;
  const ModelUse use_;
  const EngineOptions options_;
  mutable std::mutex mutex_;  // guards the inbox
  std::condition_variable wake_;
  std::deque<std::unique_ptr<Call>> inbox_;
  std::vector<uint64_t> cancelled_;
  int64_t queued_ = 0;  // in the inbox or waiting, candidates each
  uint64_t next_id_ = 1;
  bool stop_ = false;

  // Requests that have a place, and theirs; pages that are kept, and nobody's; those on disk.
  std::atomic<int64_t> placed_{0}, pages_used_{0}, pages_kept_{0}, pages_on_disk_{0};

  // Engine thread only.
  FairLine<std::unique_ptr<Call>> waiting_;
  std::vector<std::unique_ptr<Call>> running_;  // by place; null = free
  std::vector<Sequence*> sequences_;            // of these places, then of branches
  std::vector<int> order_;                      // places in order of arrival
  std::vector<int> step_order_;                 // the same and branches, of the present step
  struct Ended {
    std::shared_ptr<Sink> sink;
    absl::Status status;
  };
  std::vector<Ended> ended_;  // finished, but not closed
  PromptRoom prompt_room_;
  Step step_;
  Sampler sampler_;
  GuessControl guess_control_;
  const std::unique_ptr<Drafter> drafter_;
  int32_t ahead_ = 0;  // tokens of each sequence that were asked for in this step
  PrefixCache prefixes_;
  Branches branches_;  // of the present step
  PageWorth page_worth_;
  mutable std::mutex stats_mutex_;  // taken once a step
  EngineStats stats_;
  std::pair<uint64_t, int64_t> first_step_;  // bytes read until its end, and when that was
  std::thread thread_;
};

}  // namespace qianyi
