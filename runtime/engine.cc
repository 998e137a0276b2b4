#include "runtime/engine.h"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "runtime/engine_call.h"
#include "runtime/sampler_math.h"
#include "runtime/scheduler.h"

namespace qianyi {

int64_t NowNanoseconds() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

Engine::Engine(std::unique_ptr<LoadedModel> model, const EngineOptions& options, Parts parts)
    : loaded_(std::move(model)),
      use_(loaded_->plan().models[0].use),
      options_(options),
      running_(use_.batch),
      sequences_(use_.batch, nullptr),
      prompt_room_(StepTokens(use_) - use_.batch, options.prompt_stretch,
                   loaded_->model().spec().bidirectional),
      step_(StepTokens(use_)),
      sampler_(loaded_->model().spec().vocab_size),
      guess_control_(static_cast<int32_t>(
                         std::clamp<int64_t>(LogitRows(use_) - use_.batch, 0, prompt_room_.most())),
                     options.always_guesses),
      drafter_(std::move(parts.drafter)),
      prefixes_(loaded_->kv(), std::move(parts.page_file)),
      page_worth_(loaded_->kv().page_bytes()) {
  order_.reserve(use_.batch);
  ended_.reserve(use_.batch);
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

EngineStats Engine::stats() const {
  EngineStats stats;
  {
    std::lock_guard lock(stats_mutex_);
    stats = stats_;
  }
  stats.pages_used = pages_used_;
  stats.pages_kept = pages_kept_;
  stats.pages_on_disk = pages_on_disk_;
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
  if (prompt_tokens == 0 && taken.forced == 0) {
    guess_control_.Count(taken.sequences, guessed, taken.accepted, seconds);
    if (drafter_ != nullptr) drafter_->Count(ahead_, taken.accepted, taken.wrong, seconds);
  }
  prompt_room_.Took(prompt_tokens, seconds);
  prefixes_.Tick();
  page_worth_.Count(prompt_tokens, seconds, now.read_bytes);
  std::lock_guard lock(stats_mutex_);
  if (stats_.steps++ == 0) first_step_ = now;
  stats_.step_sequences += static_cast<uint64_t>(taken.sequences);
  stats_.prompt_tokens += static_cast<uint64_t>(prompt_tokens);
  stats_.generated_tokens += static_cast<uint64_t>(taken.tokens);
  stats_.guessed_tokens += static_cast<uint64_t>(guessed - taken.forced);
  stats_.accepted_tokens += static_cast<uint64_t>(taken.accepted);
  stats_.step_seconds += seconds;
  stats_.step_threads = loaded_->step_threads();
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
      CloseEnded();
    }
    Admit();
    if (!order_.empty()) {
      RunStep();
      CloseEnded();
    }
  }
  const absl::Status ending = absl::CancelledError("the engine is shutting down");
  for (auto& call : running_) {
    if (call != nullptr) Finish(call.get(), ending);
  }
  CloseEnded();
  while (!waiting_.empty()) waiting_.Serve()->CloseAll(ending);
  for (auto& call : inbox_) call->CloseAll(ending);
}

// With the lock held: new calls move to the waiting line, cancelled ones leave.
void Engine::TakeInbox() {
  for (auto& call : inbox_) {
    // What it holds of the cache is its cost, whether or not it writes that much.
    const double cost = static_cast<double>(call->slots() * call->candidates());
    const Turn turn = call->request.turn;
    const uint64_t arrival = call->id;
    waiting_.Enter(turn, cost, arrival, std::move(call));
  }
  inbox_.clear();
  for (const uint64_t id : cancelled_) {
    const absl::Status cancelled = absl::CancelledError("the request was cancelled");
    auto is_it = [id](const std::unique_ptr<Call>& call) { return call && call->id == id; };
    if (const std::unique_ptr<Call> waits = waiting_.Remove(is_it); waits != nullptr) {
      queued_ -= waits->candidates();
      waits->CloseAll(cancelled);
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
    Call* const call = waiting_.Next().get();
    const int64_t candidates = call->candidates();
    if (free_places < candidates || !ReserveAll(call)) return;
    CountPages();
    CountCached(call->cached);
    auto followers = std::move(call->followers);
    Place(waiting_.Serve(), /*runs=*/true);
    for (auto& follower : followers) {
      follower->leader = call;
      Place(std::move(follower), /*runs=*/false);
    }
    std::lock_guard lock(mutex_);
    queued_ -= candidates;
  }
}

// Pages of its own that a request needs, those that it shares with what came before left out.
int64_t Engine::PagesWanted(const Call& call) const {
  const Sequence& first = call.generation.sequence;
  int64_t pages = KvCache::PagesFor(call.slots()) - static_cast<int64_t>(first.pages.size()) -
                  first.prefix_slots / kPageTokens;
  for (const auto& follower : call.followers) {
    pages += KvCache::PagesFor(follower->slots()) - call.shared_slots() / kPageTokens;
  }
  return pages;
}

bool Engine::ReserveAll(Call* call) {
  Sequence& first = call->generation.sequence;
  const uint64_t flow = call->request.turn.flow;
  // A mean of hidden states needs those of all tokens.
  const bool takes = options_.keeps_prefixes && call->shares_prefixes() && !first.pooled;
  call->cached = takes ? prefixes_.Take(flow, &first) : 0;
  bool room = prefixes_.MakeRoom(PagesWanted(*call)) &&
              loaded_->Reserve(call->generation.max_cached(), &first);
  for (auto& follower : call->followers) {
    room = room && loaded_->kv().ReserveShared(first.pages, call->shared_slots(), follower->slots(),
                                               &follower->generation.sequence.pages);
  }
  if (room) return true;
  for (auto& follower : call->followers) {
    loaded_->kv().Release(&follower->generation.sequence.pages);
  }
  loaded_->kv().Release(&first.pages);
  first.cached = 0;
  return false;
}

void Engine::KeepPrefix(const Call& call) {
  if (!options_.keeps_prefixes || !call.shares_prefixes()) return;
  prefixes_.Keep(call.request.turn.flow, call.generation.sequence);
}

void Engine::CountCached(int64_t tokens) {
  std::lock_guard lock(stats_mutex_);
  stats_.cached_tokens += static_cast<uint64_t>(tokens);
}

void Engine::CountPages() {
  const KvCache& kv = loaded_->kv();
  pages_kept_ = kv.idle_pages();
  pages_on_disk_ = prefixes_.pages_on_disk();
  pages_used_ = kv.pages() - kv.free_pages() - kv.idle_pages();
}

void Engine::Place(std::unique_ptr<Call> call, bool runs) {
  const auto place = std::find(running_.begin(), running_.end(), nullptr);
  const int index = static_cast<int>(place - running_.begin());
  sequences_[index] = &call->generation.sequence;
  call->sink->SetQueueSeconds((NowNanoseconds() - call->queued_nanoseconds) * 1e-9);
  call->sink->SetCachedTokens(call->cached);
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

bool Engine::Generates(int place) const {
  return sequences_[place]->pending() == 1 && !sequences_[place]->pooled;
}

// Puts what must come, and guesses where they pay, behind what the sequences feed next, unless
// prompts want the room.
absl::Status Engine::Guess() {
  ahead_ = 0;
  const int32_t sequences = static_cast<int32_t>(order_.size());
  int32_t room = static_cast<int32_t>(std::min(LogitRows(use_), prompt_room_.most())) - sequences;
  if (room <= 0 ||
      !std::all_of(order_.begin(), order_.end(), [this](int i) { return Generates(i); })) {
    return absl::OkStatus();
  }
  const int32_t most = std::max(2, room / sequences);
  for (const int index : order_) {
    Call& call = *running_[index];
    const std::span<const int32_t> forced =
        call.constraint == nullptr ? std::span<const int32_t>() : call.constraint->Forced();
    const size_t fed = std::min<size_t>(forced.size(), std::min(most, room));
    call.feeds_forced = fed > 0;
    room -= call.generation.Guess(forced.first(fed));
  }
  if (drafter_ != nullptr) return Draft(room);
  int32_t guesses = std::min(room, guess_control_.Allow());
  const int32_t each = std::max(2, guesses / sequences);
  for (const int index : order_) {
    Call& call = *running_[index];
    if (guesses <= 0 || call.feeds_forced) continue;
    const std::vector<int32_t>& tokens = call.generation.sequence.tokens;
    guesses -= call.generation.Guess(LookUp(tokens, std::min(each, guesses)));
  }
  return absl::OkStatus();
}

// What was said before costs nothing to guess; where it says nothing, the draft model runs ahead.
absl::Status Engine::Draft(int32_t room) {
  ahead_ = drafter_->Allow(room / static_cast<int32_t>(order_.size()));
  if (ahead_ == 0) return absl::OkStatus();
  for (const int index : order_) {
    Call& call = *running_[index];
    if (call.feeds_forced) continue;
    if (call.generation.Guess(LookUp(call.generation.sequence.tokens, ahead_)) > 0) continue;
    drafter_->Add({.place = index,
                   .generation = &call.generation,
                   .sampling = &call.request.sampling,
                   .end_tokens = call.request.end_tokens,
                   .index = call.sampled,
                   .most = ahead_});
  }
  return drafter_->Run();
}

void Engine::RunStep() {
  const int64_t begin = NowNanoseconds();
  const int64_t generating =
      std::count_if(order_.begin(), order_.end(), [this](int index) { return Generates(index); });
  absl::Status status = Guess();
  ScheduleStep(sequences_, order_, {.prompt_tokens = prompt_room_.Of(generating)}, &step_);
  if (loaded_->draws_tokens()) AskForDraws();
  if (status.ok()) status = loaded_->Run(step_);
  if (!status.ok()) {
    for (auto& call : running_) {
      if (call == nullptr) continue;
      call->generation.sequence.cached = 0;  // what the step was to compute is not there
      Finish(call.get(), status);
    }
    return;
  }
  StartFollowers();
  PoolHidden();
  const Taken taken = TakeTokens();
  RingBells();
  CountStep(taken, begin);
}

void Engine::AskForDraws() {
  int place = -1;
  uint64_t later = 0;
  for (const int32_t at : step_.logit_tokens) {
    later = step_.sequences[at] == place ? later + 1 : 0;
    place = step_.sequences[at];
    step_.draws.push_back(running_[place]->Draw(later));
  }
}

// One token for each sequence whose logits were computed, and one more for each guess that is the
// token which was taken: then the logits behind it are those of the next.
Engine::Taken Engine::TakeTokens() {
  const Tensor logits = loaded_->pass().host_logits();
  Taken taken;
  int place = -1;
  Call* call = nullptr;  // null: went another way than was guessed, or has ended
  bool forced = false;   // what was fed ahead is what must come
  for (int64_t row = 0; row < logits.rows; ++row) {
    // While one thread samples, another processor is free to deliver what was sampled.
    if (row == (logits.rows + 1) / 2) RingBells();
    const int32_t at = step_.logit_tokens[row];
    const bool is_first = step_.sequences[at] != place;
    if (is_first) {
      place = step_.sequences[at];
      call = running_[place].get();
      forced = call->feeds_forced;
      BeginTaking(call);
      ++taken.sequences;
    } else if (forced) {
      ++taken.forced;
    }
    if (!is_first) {
      const bool came =
          call != nullptr && call->generation.sequence.tokens.back() == step_.tokens[at];
      if (!came) {
        if (call != nullptr) ++taken.wrong;
        call = nullptr;
        continue;
      }
      ++call->generation.sequence.cached;
      if (!forced) ++taken.accepted;
    }
    ++taken.tokens;
    const std::span<float> all(logits.f32(row), static_cast<size_t>(logits.cols));
    if (!TakeToken(call, all, loaded_->pass().Drawn(row))) call = nullptr;
  }
  return taken;
}

void Engine::BeginTaking(Call* call) {
  call->generation.TakeBackGuesses();
  if (call->kept) return;
  KeepPrefix(*call);
  call->kept = true;
}

// Twice a step: readers of many sinks would else wake for each token. Closed sinks have rung.
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

// `drawn` is the token, where the device drew it and the host has no logits; else -1. False when
// the call does not go on in the same blank.
bool Engine::TakeToken(Call* call, std::span<float> logits, int32_t drawn) {
  const GenerateRequest& request = call->request;
  TokenEvent& event = call->sink->Next();
  const int32_t forced = call->forced();
  if (call->constraint != nullptr) {
    const SamplingParams& sampling = request.sampling;
    if (forced < 0 && sampling.report_unmasked && WantsLogprobs(sampling)) {
      sampler_.Remember(logits);
    }
    call->constraint->Mask(logits);
  }
  if (drawn >= 0) {
    event.token.token = drawn;
    event.token.logprob = 0;
    event.token.top.clear();
    ++call->sampled;
  } else if (forced >= 0) {
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
  KeepPrefix(*call);
  loaded_->kv().Release(&call->generation.sequence.pages);
  if (loaded_->plan().models[0].lendable_bytes > 0) prefixes_.Age(page_worth_.steps());
  if (drafter_ != nullptr) drafter_->Forget(index);
  CountPages();
  sequences_[index] = nullptr;
  order_.erase(std::remove(order_.begin(), order_.end(), index), order_.end());
  --placed_;
  ended_.push_back({std::move(call->sink), std::move(status)});
  place->reset();
}

// What calls held has been given back, and what they took been counted, before anybody hears of
// their end.
void Engine::CloseEnded() {
  for (Ended& one : ended_) one.sink->Close(std::move(one.status));
  ended_.clear();
}

}  // namespace qianyi
