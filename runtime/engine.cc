#include "runtime/engine.h"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/str_format.h"
#include "runtime/sampler_math.h"

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
    sequence.pooled = sink->dimensions() > 0;
    pooled.resize(static_cast<size_t>(sink->dimensions()));
  }

  uint64_t id = 0;
  int64_t queued_nanoseconds = 0;  // when it was submitted
  GenerateRequest request;         // its prompt has moved into `generation`
  std::shared_ptr<Sink> sink;
  std::unique_ptr<Constraint> constraint;  // or null
  Generation generation;
  uint64_t sampled = 0;        // index of its next random number
  std::vector<double> pooled;  // sum of its hidden states, where their mean is wanted
  // Candidates of the same prompt until they have places. Then each names this one, until the
  // slots that they share have been computed.
  std::vector<std::unique_ptr<Call>> followers;
  Call* leader = nullptr;

  void CloseAll(const absl::Status& status) {
    sink->Close(status);
    for (auto& follower : followers) follower->sink->Close(status);
  }
  int64_t candidates() const { return 1 + static_cast<int64_t>(followers.size()); }
  int64_t slots() const { return generation.sequence.prefix_slots + generation.max_cached(); }
  // All of the prompt but its last token, whose logits each candidate needs for itself.
  int64_t shared_slots() const {
    return generation.sequence.prefix_slots + generation.prompt_tokens() - 1;
  }
};

Engine::Engine(std::unique_ptr<LoadedModel> model, int64_t queue, bool always_guesses)
    : loaded_(std::move(model)),
      use_(loaded_->plan().models[0].use),
      queue_limit_(queue),
      running_(use_.batch),
      sequences_(use_.batch, nullptr),
      limits_{.prompt_tokens = StepTokens(use_) - use_.batch},
      step_(StepTokens(use_)),
      sampler_(loaded_->model().spec().vocab_size),
      guess_control_(static_cast<int32_t>(std::clamp<int64_t>(LogitRows(use_) - use_.batch, 0,
                                                              limits_.prompt_tokens)),
                     always_guesses) {
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
  return Enqueue(
      std::make_unique<Call>(std::move(request), std::move(sink), std::move(constraint)));
}

absl::StatusOr<uint64_t> Engine::Submit(GenerateRequest request,
                                        std::vector<Candidate> candidates) {
  const int64_t places = static_cast<int64_t>(running_.size());
  if (candidates.empty() || static_cast<int64_t>(candidates.size()) > places) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%d candidates; they run together, and there are %d places; ask for 1..%d, "
                        "or raise --batch",
                        candidates.size(), places, places));
  }
  if (request.prompt.blanks.size() != 1) {
    return absl::InvalidArgumentError("a prompt of several candidates has one blank");
  }
  std::unique_ptr<Call> leader;
  for (Candidate& candidate : candidates) {
    request.sampling = std::move(candidate.sampling);
    absl::Status status = Check(request, model().spec(), use_.context_tokens);
    if (!status.ok()) return status;
    auto call =
        std::make_unique<Call>(request, std::move(candidate.sink), std::move(candidate.constraint));
    if (leader == nullptr) {
      leader = std::move(call);
    } else {
      leader->followers.push_back(std::move(call));
    }
  }
  return Enqueue(std::move(leader));
}

absl::StatusOr<uint64_t> Engine::Enqueue(std::unique_ptr<Call> call) {
  const int64_t candidates = call->candidates();
  std::lock_guard lock(mutex_);
  if (queued_ + candidates > queue_limit_) {
    return absl::ResourceExhaustedError(absl::StrFormat(
        "%d requests are waiting, and at most %d may; try again later", queued_, queue_limit_));
  }
  queued_ += candidates;
  call->id = next_id_++;
  const uint64_t id = call->id;
  call->queued_nanoseconds = NowNanoseconds();
  for (auto& follower : call->followers) {
    follower->id = id;
    follower->queued_nanoseconds = call->queued_nanoseconds;
  }
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
  stats.pages_used = pages_used_;
  stats.running = placed_;
  std::lock_guard lock(mutex_);
  stats.waiting = queued_;
  return stats;
}

void Engine::CountStep(const Taken& taken, int64_t begin_nanoseconds) {
  const Mark now{loaded_->store().stats().read_bytes, NowNanoseconds()};
  const int64_t logits = static_cast<int64_t>(step_.logit_tokens.size());
  const int64_t prompt_tokens = step_.size() - logits, guessed = logits - taken.sequences;
  const double seconds = (now.nanoseconds - begin_nanoseconds) * 1e-9;
  if (prompt_tokens == 0) guess_control_.Count(taken.sequences, guessed, taken.accepted, seconds);
  std::lock_guard lock(stats_mutex_);
  if (stats_.steps++ == 0) first_step_ = now;
  stats_.step_sequences += static_cast<uint64_t>(taken.sequences);
  stats_.prompt_tokens += static_cast<uint64_t>(prompt_tokens);
  stats_.generated_tokens += static_cast<uint64_t>(taken.tokens);
  stats_.guessed_tokens += static_cast<uint64_t>(guessed);
  stats_.accepted_tokens += static_cast<uint64_t>(taken.accepted);
  stats_.step_seconds += seconds;
  stats_.steady_steps = stats_.steps - 1;
  stats_.steady_read_bytes = now.read_bytes - first_step_.read_bytes;
  stats_.steady_seconds = (now.nanoseconds - first_step_.nanoseconds) * 1e-9;
}

void Engine::Loop() {
  pthread_setname_np(pthread_self(), "engine");
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
  const absl::Status ending = absl::CancelledError("the engine is shutting down");
  for (auto& call : running_) {
    if (call != nullptr) Finish(call.get(), ending);
  }
  for (auto& [rank, call] : waiting_) call->CloseAll(ending);
  for (auto& call : inbox_) call->CloseAll(ending);
}

// With the lock held: new calls move to the waiting line, cancelled ones leave.
void Engine::TakeInbox() {
  for (auto& call : inbox_) {
    // What it holds of the cache is its cost, whether or not it writes that much.
    const double cost = static_cast<double>(call->slots() * call->candidates());
    const Rank rank = clock_.Enter(call->request.turn, cost, call->id);
    waiting_.emplace(rank, std::move(call));
  }
  inbox_.clear();
  for (const uint64_t id : cancelled_) {
    const absl::Status cancelled = absl::CancelledError("the request was cancelled");
    auto is_it = [id](const std::unique_ptr<Call>& call) { return call && call->id == id; };
    const auto waits = std::find_if(waiting_.begin(), waiting_.end(),
                                    [&](const auto& entry) { return is_it(entry.second); });
    if (waits != waiting_.end()) {
      queued_ -= waits->second->candidates();
      waits->second->CloseAll(cancelled);
      waiting_.erase(waits);
    }
    for (auto& running : running_) {
      if (is_it(running)) Finish(running.get(), cancelled);
    }
  }
  cancelled_.clear();
}

// Whose turn it is gets a place and all the cache it can need at once, so that nothing that runs is
// ever thrown out for another. One that does not fit yet holds back those behind it.
void Engine::Admit() {
  while (!waiting_.empty()) {
    const int64_t free_places = std::count(running_.begin(), running_.end(), nullptr);
    const auto batch = waiting_.lower_bound(Rank{.batch = true});
    const bool batch_waits = batch != waiting_.end();
    const auto next = batch_waits && clock_.BatchIsDue() ? batch : waiting_.begin();
    Call* call = next->second.get();
    const int64_t candidates = call->candidates();
    if (free_places < candidates || !ReserveAll(call)) return;
    pages_used_ = loaded_->kv().pages() - loaded_->kv().free_pages();
    clock_.Serve(next->first, batch_waits);
    std::unique_ptr<Call> leader = std::move(next->second);
    waiting_.erase(next);
    auto followers = std::move(call->followers);
    Place(std::move(leader), /*runs=*/true);
    for (auto& follower : followers) {
      follower->leader = call;
      Place(std::move(follower), /*runs=*/false);
    }
    std::lock_guard lock(mutex_);
    queued_ -= candidates;
  }
  clock_.Reset();
}

bool Engine::ReserveAll(Call* call) {
  Sequence& first = call->generation.sequence;
  bool room = loaded_->Reserve(call->generation.max_cached(), &first);
  if (!room) return false;
  for (auto& follower : call->followers) {
    room = room && loaded_->kv().ReserveShared(first.pages, call->shared_slots(), follower->slots(),
                                               &follower->generation.sequence.pages);
  }
  if (room) return true;
  for (auto& follower : call->followers) {
    loaded_->kv().Release(&follower->generation.sequence.pages);
  }
  loaded_->kv().Release(&first.pages);
  return false;
}

void Engine::Place(std::unique_ptr<Call> call, bool runs) {
  const auto place = std::find(running_.begin(), running_.end(), nullptr);
  const int index = static_cast<int>(place - running_.begin());
  sequences_[index] = &call->generation.sequence;
  call->sink->SetQueueSeconds((NowNanoseconds() - call->queued_nanoseconds) * 1e-9);
  *place = std::move(call);
  if (runs) order_.push_back(index);
  ++placed_;
}

// Candidates go on from the prompt once it has been computed.
void Engine::StartFollowers() {
  for (size_t i = 0; i < running_.size(); ++i) {
    Call* call = running_[i].get();
    if (call == nullptr || call->leader == nullptr) continue;
    const Sequence& first = call->leader->generation.sequence;
    const int64_t shared = call->leader->shared_slots();
    if (first.prefix_slots + first.cached < shared) continue;
    Sequence& sequence = call->generation.sequence;
    loaded_->kv().CopyShared(first.pages, shared, sequence.pages);
    sequence.cached = static_cast<int32_t>(shared) - sequence.prefix_slots;
    call->leader = nullptr;
    order_.push_back(static_cast<int>(i));
  }
}

// Puts guesses behind what the sequences feed next, unless prompts want the room.
void Engine::Guess() {
  const auto generates = [this](int index) {
    return sequences_[index]->pending() == 1 && !sequences_[index]->pooled;
  };
  int32_t room = guess_control_.Allow();
  if (room == 0 || !std::all_of(order_.begin(), order_.end(), generates)) return;
  const int32_t each = std::max(2, room / static_cast<int32_t>(order_.size()));
  for (const int index : order_) {
    Generation& generation = running_[index]->generation;
    room -= generation.Guess(LookUp(generation.sequence.tokens, std::min(each, room)));
    if (room == 0) return;
  }
}

void Engine::RunStep() {
  const int64_t begin = NowNanoseconds();
  Guess();
  ScheduleStep(sequences_, order_, limits_, &step_);
  const absl::Status status = loaded_->Run(step_);
  if (!status.ok()) {
    for (auto& call : running_) {
      if (call != nullptr) Finish(call.get(), status);
    }
    return;
  }
  StartFollowers();
  PoolHidden();
  const Taken taken = TakeTokens();
  RingBells();
  CountStep(taken, begin);
}

// One token for each sequence whose logits were computed, and one more for each guess that is the
// token which was taken: then the logits behind it are those of the next.
Engine::Taken Engine::TakeTokens() {
  const Tensor logits = loaded_->pass().host_logits();
  Taken taken;
  int place = -1;
  Call* call = nullptr;  // null: went another way than was guessed, or has ended
  for (int64_t row = 0; row < logits.rows; ++row) {
    const int32_t at = step_.logit_tokens[row];
    if (step_.sequences[at] != place) {
      place = step_.sequences[at];
      call = running_[place].get();
      call->generation.TakeBackGuesses();
      ++taken.sequences;
    } else if (call != nullptr && call->generation.sequence.tokens.back() == step_.tokens[at]) {
      ++call->generation.sequence.cached;
      ++taken.accepted;
    } else {
      call = nullptr;
      continue;
    }
    ++taken.tokens;
    if (!TakeToken(call, {logits.f32(row), static_cast<size_t>(logits.cols)})) call = nullptr;
  }
  return taken;
}

// Once a step: readers of many sinks would else wake for each token. Closed sinks have rung.
void Engine::RingBells() {
  Bell* last = nullptr;
  for (const int place : order_) {
    Bell* const bell = running_[place]->sink->bell();
    if (bell != nullptr && bell != last) bell->Ring();
    last = bell;
  }
}

// Adds up the final hidden states of prompts that want their mean, in the order of their tokens:
// however a prompt was split, the sum is the same.
void Engine::PoolHidden() {
  if (!step_.wants_hidden) return;
  const Tensor hidden = loaded_->pass().host_hidden();
  for (int64_t row = 0; row < hidden.rows;) {
    Call* call = running_[step_.sequences[row]].get();
    int64_t end = row + 1;
    while (end < hidden.rows && step_.sequences[end] == step_.sequences[row]) ++end;
    const Sequence& sequence = call->generation.sequence;
    const int64_t first = sequence.cached - (end - row);  // what it had before this step
    const int64_t last = call->generation.prompt_tokens();
    for (int64_t at = first; sequence.pooled && row < end && at < last; ++at, ++row) {
      for (int64_t i = 0; i < hidden.cols; ++i) {
        call->pooled[static_cast<size_t>(i)] += static_cast<double>(hidden.f32(row)[i]);
      }
    }
    row = end;
    if (!sequence.pooled || sequence.pending() > 0) continue;
    call->sink->SetMean(call->pooled, last);
    Finish(call, absl::OkStatus());
  }
}

// False when the call does not go on in the same blank.
bool Engine::TakeToken(Call* call, std::span<float> logits) {
  const GenerateRequest& request = call->request;
  TokenEvent& event = call->sink->Next();
  const int32_t forced = call->constraint == nullptr ? -1 : call->constraint->Forced();
  if (call->constraint != nullptr) {
    const SamplingParams& sampling = request.sampling;
    if (forced < 0 && sampling.report_unmasked && WantsLogprobs(sampling)) {
      sampler_.Remember(logits);
    }
    call->constraint->Mask(logits);
  }
  if (forced >= 0) {
    event.token.token = forced;
    event.token.logprob = static_cast<float>(LogProbabilityAt(logits, forced));
  } else {
    sampler_.Sample(request.sampling, logits, call->generation.sequence.tokens, call->sampled++,
                    &event.token);
  }
  const int32_t token = event.token.token;
  if (std::find(request.end_tokens.begin(), request.end_tokens.end(), token) !=
      request.end_tokens.end()) {
    NextBlank(call, FinishReason::kStop);
    return false;
  }
  if (call->constraint != nullptr) call->constraint->Accept(token);
  event.blank = call->generation.blank();
  event.finish = FinishReason::kNone;
  call->sink->Publish();
  if (!call->generation.Accept(token)) return true;
  NextBlank(call, FinishReason::kLength);
  return false;
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
  const auto is_it = [call](const auto& one) { return one.get() == call; };
  const auto place = std::find_if(running_.begin(), running_.end(), is_it);
  const int index = static_cast<int>(place - running_.begin());
  loaded_->kv().Release(&call->generation.sequence.pages);
  pages_used_ = loaded_->kv().pages() - loaded_->kv().free_pages();
  sequences_[index] = nullptr;
  order_.erase(std::remove(order_.begin(), order_.end(), index), order_.end());
  --placed_;
  const std::shared_ptr<Sink> sink = std::move(call->sink);
  place->reset();  // what it held is given back before anybody hears of its end
  sink->Close(std::move(status));
}

}  // namespace qianyi
