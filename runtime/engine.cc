#include "runtime/engine.h"

#include <pthread.h>

#include <algorithm>
#include <utility>

#include "runtime/engine_call.h"

namespace qianyi {

Engine::Engine(std::unique_ptr<LoadedModel> model, const EngineOptions& options, Parts parts)
    : loaded_(std::move(model)),
      use_(loaded_->plan().models[0].use),
      options_(options),
      running_(use_.batch),
      sequences_(use_.batch + use_.branches, nullptr),
      prompt_room_(StepTokens(use_) - use_.batch, options.prompt_stretch,
                   loaded_->model().spec().bidirectional),
      step_(StepTokens(use_)),
      sampler_(loaded_->model().spec().vocab_size),
      guess_control_(static_cast<int32_t>(std::clamp<int64_t>(
                         LogitRows(use_) - use_.batch - use_.branches, 0, prompt_room_.most())),
                     options.always_guesses),
      drafter_(std::move(parts.drafter)),
      prefixes_(loaded_->kv(), std::move(parts.page_file)),
      branches_(loaded_->kv(), prefixes_, use_, options.always_guesses),
      page_worth_(loaded_->kv().page_bytes()) {
  order_.reserve(use_.batch);
  step_order_.reserve(use_.batch + use_.branches);
  for (int64_t i = 0; i < use_.branches; ++i) sequences_[use_.batch + i] = branches_.sequence(i);
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
