#include "runtime/engine.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_format.h"

namespace qianyi {
namespace {

int64_t NowNanoseconds() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace

// One request on its way through the engine.
struct Engine::Call {
  Call(GenerateRequest from, std::shared_ptr<Sink> to, std::unique_ptr<Constraint> form)
      : request(std::move(from)),
        sink(std::move(to)),
        constraint(std::move(form)),
        generation(std::move(request.prompt), request.max_tokens) {
    Sequence& sequence = generation.sequence;
    LoadedModel::Attach(request.adapter.get(), &sequence);
    sequence.pages.reserve(KvCache::PagesFor(sequence.prefix_slots + generation.max_cached()));
  }

  uint64_t id = 0;
  GenerateRequest request;  // its prompt has moved into `generation`
  std::shared_ptr<Sink> sink;
  std::unique_ptr<Constraint> constraint;  // or null
  Generation generation;
  uint64_t sampled = 0;  // index of its next random number
};

Engine::Engine(std::unique_ptr<LoadedModel> model, int64_t queue)
    : loaded_(std::move(model)),
      use_(loaded_->plan().models[0].use),
      queue_limit_(queue),
      running_(use_.batch),
      sequences_(use_.batch, nullptr),
      limits_{.prompt_tokens = StepTokens(use_) - use_.batch},
      step_(StepTokens(use_)),
      sampler_(loaded_->model().spec().vocab_size) {
  order_.reserve(use_.batch);
  thread_ = std::thread([this] { Loop(); });
}

Engine::~Engine() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

int64_t Engine::MaxEvents(const GenerateRequest& request) {
  return static_cast<int64_t>(request.prompt.blanks.size()) * (int64_t{request.max_tokens} + 1);
}

absl::Status Engine::Check(const GenerateRequest& request, const ModelSpec& spec,
                           int64_t context_tokens) {
  if (absl::Status status = Validate(request.sampling, spec.vocab_size); !status.ok()) {
    return status;
  }
  for (const int32_t end : request.end_tokens) {
    if (end < 0 || end >= spec.vocab_size) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "stop token %d; tokens of this model are 0 to %d", end, spec.vocab_size - 1));
    }
  }
  const int64_t prompt = static_cast<int64_t>(request.prompt.tokens.size());
  const int64_t blanks = static_cast<int64_t>(request.prompt.blanks.size());
  if (request.max_tokens < 1 || request.max_tokens > spec.max_positions) {
    return absl::InvalidArgumentError(absl::StrFormat("max_tokens is %d; it must be 1..%d",
                                                      request.max_tokens, spec.max_positions));
  }
  const int64_t total = Generation::MaxCached(request.prompt, request.max_tokens);
  if (prompt < 1 || blanks < 1 || total > context_tokens) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "the prompt has %d tokens and %d blank(s) of max_tokens %d each need one more to start: "
        "%d in all, but the context is %d; shorten the prompt, lower max_tokens or raise --context",
        prompt, blanks, request.max_tokens, total, context_tokens));
  }
  int64_t moved = 0;
  for (const Blank& blank : request.prompt.blanks) {
    for (int row : {0, 1}) {
      const int64_t last = blank.position[row] + (row == 0 ? moved : 0) +
                           int64_t{blank.stride[row]} * request.max_tokens;
      if (last > spec.max_positions) {
        return absl::InvalidArgumentError(absl::StrFormat(
            "max_tokens %d would reach position %d; the model has positions up to %d; lower it",
            request.max_tokens, last, spec.max_positions));
      }
    }
    // What fills a mask moves the later ones on.
    if (request.prompt.refill) moved += request.max_tokens - 1;
  }
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> Engine::Submit(GenerateRequest request, std::shared_ptr<Sink> sink,
                                        std::unique_ptr<Constraint> constraint) {
  if (constraint != nullptr && request.prompt.blanks.size() != 1) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "the prompt has %d blanks; a constrained request has one", request.prompt.blanks.size()));
  }
  if (absl::Status status = Check(request, model().spec(), use_.context_tokens); !status.ok()) {
    return status;
  }
  auto call = std::make_unique<Call>(std::move(request), std::move(sink), std::move(constraint));
  std::lock_guard lock(mutex_);
  if (queued_ >= queue_limit_) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("%d requests are waiting, which is the limit; try again later", queued_));
  }
  ++queued_;
  call->id = next_id_++;
  const uint64_t id = call->id;
  inbox_.push_back(std::move(call));
  wake_.notify_one();
  return id;
}

void Engine::Cancel(uint64_t id) {
  std::lock_guard lock(mutex_);
  cancelled_.push_back(id);
  wake_.notify_one();
}

EngineStats Engine::stats() const {
  EngineStats stats;
  {
    std::lock_guard lock(stats_mutex_);
    stats = stats_;
  }
  std::lock_guard lock(mutex_);
  stats.running = placed_;
  stats.waiting = queued_;
  return stats;
}

void Engine::CountStep(int64_t prompt_tokens, int64_t generated_tokens, int64_t begin_nanoseconds) {
  const Mark now{loaded_->store().stats().read_bytes, NowNanoseconds()};
  std::lock_guard lock(stats_mutex_);
  if (stats_.steps++ == 0) first_step_ = now;
  stats_.prompt_tokens += prompt_tokens;
  stats_.generated_tokens += generated_tokens;
  stats_.step_seconds += (now.nanoseconds - begin_nanoseconds) * 1e-9;
  stats_.steady_steps = stats_.steps - 1;
  stats_.steady_read_bytes = now.read_bytes - first_step_.read_bytes;
  stats_.steady_seconds = (now.nanoseconds - first_step_.nanoseconds) * 1e-9;
}

void Engine::Loop() {
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] {
        return stop_ || !inbox_.empty() || !cancelled_.empty() || !order_.empty() ||
               !waiting_.empty();
      });
      if (stop_) break;
      TakeInbox();
    }
    Admit();
    if (!order_.empty()) RunStep();
  }
  for (auto& call : running_) {
    if (call != nullptr) Finish(call.get(), absl::CancelledError("the engine is shutting down"));
  }
  for (auto* list : {&waiting_, &inbox_}) {
    for (auto& call : *list) call->sink->Close(absl::CancelledError("the engine is shutting down"));
  }
}

// With the lock held: new calls move to the waiting line, cancelled ones leave.
void Engine::TakeInbox() {
  for (auto& call : inbox_) waiting_.push_back(std::move(call));
  inbox_.clear();
  const absl::Status cancelled = absl::CancelledError("the request was cancelled");
  for (const uint64_t id : cancelled_) {
    auto is_it = [id](const std::unique_ptr<Call>& call) { return call && call->id == id; };
    auto waits = std::find_if(waiting_.begin(), waiting_.end(), is_it);
    if (waits != waiting_.end()) {
      (*waits)->sink->Close(cancelled);
      waiting_.erase(waits);
      --queued_;
    }
    auto runs = std::find_if(running_.begin(), running_.end(), is_it);
    if (runs != running_.end()) Finish(runs->get(), cancelled);
  }
  cancelled_.clear();
}

// First come, first served: a call gets a place and all the cache it can need at once, so that
// nothing that runs is ever thrown out for another.
void Engine::Admit() {
  while (!waiting_.empty()) {
    auto place = std::find(running_.begin(), running_.end(), nullptr);
    Call* call = waiting_.front().get();
    if (place == running_.end() ||
        !loaded_->Reserve(call->generation.max_cached(), &call->generation.sequence)) {
      return;
    }
    const int index = static_cast<int>(place - running_.begin());
    *place = std::move(waiting_.front());
    waiting_.pop_front();
    sequences_[index] = &call->generation.sequence;
    order_.push_back(index);
    placed_ = static_cast<int64_t>(order_.size());
    std::lock_guard lock(mutex_);
    --queued_;
  }
}

void Engine::RunStep() {
  const int64_t begin = NowNanoseconds();
  ScheduleStep(sequences_, order_, limits_, &step_);
  const absl::Status status = loaded_->Run(step_);
  if (!status.ok()) {
    for (auto& call : running_) {
      if (call != nullptr) Finish(call.get(), status);
    }
    return;
  }
  const Tensor logits = loaded_->pass().logits();
  for (int64_t row = 0; row < logits.rows; ++row) {
    Call* call = running_[step_.sequences[step_.logit_tokens[row]]].get();
    TakeToken(call, {logits.f32(row), static_cast<size_t>(logits.cols)});
  }
  CountStep(step_.size() - logits.rows, logits.rows, begin);
}

void Engine::TakeToken(Call* call, std::span<float> logits) {
  const GenerateRequest& request = call->request;
  TokenEvent& event = call->sink->Next();
  if (call->constraint != nullptr) call->constraint->Mask(logits);
  sampler_.Sample(request.sampling, logits, call->generation.sequence.tokens, call->sampled++,
                  &event.token);
  const int32_t token = event.token.token;
  if (std::find(request.end_tokens.begin(), request.end_tokens.end(), token) !=
      request.end_tokens.end()) {
    NextBlank(call, FinishReason::kStop);
    return;
  }
  if (call->constraint != nullptr) call->constraint->Accept(token);
  event.blank = call->generation.blank();
  event.finish = FinishReason::kNone;
  call->sink->Publish();
  if (call->generation.Accept(token)) NextBlank(call, FinishReason::kLength);
}

void Engine::NextBlank(Call* call, FinishReason why) {
  TokenEvent& event = call->sink->Next();
  event.blank = call->generation.blank();
  event.finish = why;
  call->sink->Publish();
  call->generation.EndBlank();
  if (call->generation.done()) Finish(call, absl::OkStatus());
}

void Engine::Finish(Call* call, absl::Status status) {
  auto place = std::find_if(running_.begin(), running_.end(),
                            [call](const auto& running) { return running.get() == call; });
  const int index = static_cast<int>(place - running_.begin());
  loaded_->kv().Release(&call->generation.sequence.pages);
  sequences_[index] = nullptr;
  order_.erase(std::find(order_.begin(), order_.end(), index));
  placed_ = static_cast<int64_t>(order_.size());
  call->sink->Close(std::move(status));
  place->reset();
}

}  // namespace qianyi
