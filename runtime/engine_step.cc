// What the engine does in a step: guesses, the step itself, and the tokens that come of it.
#include <algorithm>
#include <utility>

#include "runtime/engine.h"
#include "runtime/engine_call.h"
#include "runtime/sampler_math.h"
#include "runtime/scheduler.h"

namespace qianyi {

// By a step: tokens, of which some had been guessed, and more in branches; sequences that had not.
struct Engine::Taken {
  int64_t tokens = 0, accepted = 0, more = 0, sequences = 0, forced = 0, wrong = 0;
};

bool Engine::Generates(int place) const {
  return sequences_[place]->pending() == 1 && !sequences_[place]->pooled;
}

// Puts what must come, and guesses where they pay, behind what the sequences feed next, unless
// prompts want the room.
absl::Status Engine::Guess() {
  ahead_ = 0;
  const int32_t sequences = static_cast<int32_t>(order_.size());
  int32_t room =
      static_cast<int32_t>(std::min(LogitRows(use_) - use_.branches, prompt_room_.most())) -
      sequences;
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
  if (drafter_ != nullptr) {
    if (auto status = Draft(room); !status.ok()) return status;
  } else {
    RepeatWords(room);
  }
  AddBranches();
  return absl::OkStatus();
}

// Guesses what was said before.
void Engine::RepeatWords(int32_t room) {
  int32_t guesses = std::min(room, guess_control_.Allow());
  const int32_t each = std::max(2, guesses / static_cast<int32_t>(order_.size()));
  for (const int index : order_) {
    Call& call = *running_[index];
    if (guesses <= 0 || call.feeds_forced) continue;
    const std::vector<int32_t>& tokens = call.generation.sequence.tokens;
    guesses -= call.generation.Guess(LookUp(tokens, std::min(each, guesses)));
  }
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
                   .most = ahead_,
                   .others = use_.branches > 0});
  }
  return drafter_->Run();
}

// What else may come where a guess is wrong, as far as the step has room for it.
void Engine::AddBranches() {
  int64_t rows = prompt_room_.most();
  bool guesses = false;
  for (const int index : order_) {
    const int32_t guessed = sequences_[index]->guessed;
    rows -= 1 + guessed;
    guesses = guesses || (!running_[index]->feeds_forced && guessed > 0);
  }
  if (use_.branches == 0 || !guesses || !branches_.control().Allow()) return;
  const auto each = static_cast<int32_t>(
      std::max<int64_t>(1, use_.branches / static_cast<int64_t>(order_.size())));
  for (const int index : order_) {
    if (running_[index]->feeds_forced) continue;
    const Generation& generation = running_[index]->generation;
    const auto others =
        drafter_ != nullptr ? drafter_->Others(index) : std::span<const Drafter::Other>();
    if (others.empty()) branches_.AddRepeated(index, generation, each, &rows);
    for (const Drafter::Other& other : others.first(std::min<size_t>(others.size(), each))) {
      branches_.Add(index, generation, other.from, {&other.token, 1}, &rows);
    }
  }
}

void Engine::RunStep() {
  const int64_t begin = NowNanoseconds();
  const int64_t generating =
      std::count_if(order_.begin(), order_.end(), [this](int index) { return Generates(index); });
  absl::Status status = Guess();
  step_order_.assign(order_.begin(), order_.end());
  const int branches = static_cast<int>(branches_.all().size());
  for (int i = 0; i < branches; ++i) step_order_.push_back(static_cast<int>(use_.batch) + i);
  ScheduleStep(sequences_, step_order_, {.prompt_tokens = prompt_room_.Of(generating)}, &step_);
  branches_.Locate(step_, static_cast<int>(use_.batch));
  if (loaded_->draws_tokens()) AskForDraws();
  if (status.ok()) status = loaded_->Run(step_);
  if (!status.ok()) {
    for (auto& call : running_) {
      if (call == nullptr) continue;
      call->generation.sequence.cached = 0;  // what the step was to compute is not there
      Finish(call.get(), status);
    }
    branches_.Clear();
    return;
  }
  StartFollowers();
  PoolHidden();
  const Taken taken = TakeTokens();
  RingBells();
  CountStep(taken, begin);
  if (branches_.all().empty()) return;
  branches_.Clear();
  CountPages();
}

void Engine::AskForDraws() {
  int place = -1;
  uint64_t later = 0;
  for (const int32_t at : step_.logit_tokens) {
    later = step_.sequences[at] == place ? later + 1 : 0;
    place = step_.sequences[at];
    if (place >= use_.batch) break;  // branches come last
    step_.draws.push_back(running_[place]->Draw(later));
  }
  for (const Branch& branch : branches_.all()) {
    const auto first = static_cast<uint64_t>(branch.from) + 1;
    for (int64_t row = branch.begin; row < branch.end; ++row) {
      const auto own = static_cast<uint64_t>(row - branch.begin);
      step_.draws.push_back(running_[branch.place]->Draw(first + own));
    }
  }
}

// A token for each sequence whose logits were computed, and one more for each guess, of whichever
// branch, that is the token which was taken: then the logits behind it are those of the next.
Engine::Taken Engine::TakeTokens() {
  const auto rows = static_cast<int64_t>(step_.logit_tokens.size()) - branches_.own_tokens();
  const auto place_of = [this](int64_t row) { return step_.sequences[step_.logit_tokens[row]]; };
  Taken taken;
  bool rang = false;
  for (int64_t row = 0, end = 0; row < rows; row = end) {
    // While one thread samples, another processor is free to deliver what was sampled.
    if (!rang && row >= (rows + 1) / 2) {
      RingBells();
      rang = true;
    }
    const int place = place_of(row);
    while (end < rows && place_of(end) == place) ++end;
    TakePath(place, row, end, &taken);
  }
  return taken;
}

// Of a sequence whose logits are those rows, and of its branches.
void Engine::TakePath(int place, int64_t row, int64_t end, Taken* taken) {
  Call* const call = running_[place].get();
  const bool forced = call->feeds_forced;  // what was fed ahead is what must come
  const Tensor logits = loaded_->pass().host_logits();
  BeginTaking(call);
  ++taken->sequences;
  if (forced) taken->forced += end - row - 1;
  const Branch* branch = nullptr;
  for (int32_t came = 0;; ++came) {
    ++taken->tokens;
    const std::span<float> all(logits.f32(row), static_cast<size_t>(logits.cols));
    if (!TakeToken(call, all, loaded_->pass().Drawn(row))) return;
    const int32_t token = call->generation.sequence.tokens.back();
    if (++row == end || step_.tokens[step_.logit_tokens[row]] != token) {
      if (branch == nullptr && row < end) ++taken->wrong;
      branch = branch == nullptr ? branches_.Find(place, came, token) : nullptr;
      if (branch == nullptr) return;
      branches_.Take(*branch, &call->generation.sequence);
      row = branch->begin;
      end = branch->end;
    }
    ++call->generation.sequence.cached;
    if (branch != nullptr) {
      ++taken->more;
    } else if (!forced) {
      ++taken->accepted;
    }
  }
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

void Engine::CountStep(const Taken& taken, int64_t begin_nanoseconds) {
  const uint64_t read_bytes = loaded_->store().stats().read_bytes;
  const int64_t now = NowNanoseconds();
  const int64_t logits = static_cast<int64_t>(step_.logit_tokens.size());
  const int64_t branched = branches_.own_tokens();
  const int64_t prompt_tokens = step_.size() - logits - branches_.again_tokens();
  const int64_t guessed = logits - taken.sequences - branched;
  const double seconds = (now - begin_nanoseconds) * 1e-9;
  if (prompt_tokens == 0 && taken.forced == 0) {
    guess_control_.Count(taken.sequences, guessed, taken.accepted, taken.more, seconds);
    if (guessed + branched > 0) {
      const auto sequences = static_cast<double>(taken.sequences);
      branches_.control().Count(branched > 0,
                                static_cast<double>(taken.tokens - taken.more) / sequences,
                                static_cast<double>(taken.more) / sequences, seconds);
    }
    if (drafter_ != nullptr) drafter_->Count(ahead_, taken.accepted, taken.wrong, seconds);
  }
  prompt_room_.Took(prompt_tokens, seconds);
  prefixes_.Tick();
  page_worth_.Count(prompt_tokens, seconds, read_bytes);
  std::lock_guard lock(stats_mutex_);
  if (stats_.steps++ == 0) first_step_ = {read_bytes, now};
  stats_.step_sequences += static_cast<uint64_t>(taken.sequences);
  stats_.prompt_tokens += static_cast<uint64_t>(prompt_tokens);
  stats_.generated_tokens += static_cast<uint64_t>(taken.tokens);
  stats_.guessed_tokens += static_cast<uint64_t>(guessed - taken.forced + branched);
  stats_.accepted_tokens += static_cast<uint64_t>(taken.accepted + taken.more);
  stats_.branch_tokens += static_cast<uint64_t>(branched);
  stats_.accepted_branch_tokens += static_cast<uint64_t>(taken.more);
  stats_.step_seconds += seconds;
  stats_.step_threads = loaded_->step_threads();
  stats_.steady_steps = stats_.steps - 1;
  stats_.steady_read_bytes = read_bytes - first_step_.first;
  stats_.steady_seconds = (now - first_step_.second) * 1e-9;
}

}  // namespace qianyi
