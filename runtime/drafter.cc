#include "runtime/drafter.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <utility>

#include "absl/strings/str_format.h"

namespace qianyi {
namespace {

constexpr int32_t kMostAhead = 16;    // nothing is right so often that more would pay
constexpr int32_t kFirstAhead = 2;    // before anything is known, and to see whether it pays again
constexpr uint64_t kProbeEvery = 64;  // steps, of which one is made the other way
constexpr double kNewShare = 0.2;     // of a step in running means
constexpr int64_t kPlainFirst = 3, kTriedFirst = 8;  // steps before anything is judged
constexpr double kRemembered = 0.95;  // of what was right and wrong, from step to step
constexpr int32_t kRidesAlong = 8;    // tokens that a mirror reads in the step of its first draft

double SecondsNow() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Of the two sequences, the tokens from the first on that are the same at the same positions.
int32_t SameTokens(const Sequence& a, const Sequence& b) {
  if (a.bidirectional != b.bidirectional) return 0;
  const auto same = [](const std::vector<int32_t>& x, const std::vector<int32_t>& y) {
    return std::mismatch(x.begin(), x.end(), y.begin(), y.end()).first - x.begin();
  };
  return static_cast<int32_t>(
      std::min({same(a.tokens, b.tokens), same(a.positions[0], b.positions[0]),
                same(a.positions[1], b.positions[1])}));
}

absl::Status SameVocabulary(const Tokenizer& target, const std::string& folder) {
  absl::StatusOr<std::unique_ptr<Tokenizer>> draft = OpenTokenizer(folder);
  if (!draft.ok()) return draft.status();
  for (int32_t id = 0; id < std::min(target.vocab_size(), (*draft)->vocab_size()); ++id) {
    if (target.TokenBytes(id) == (*draft)->TokenBytes(id)) continue;
    return absl::InvalidArgumentError(absl::StrFormat(
        "token %d is another in its tokenizer than in the model's; a draft model must have been "
        "trained with the same vocabulary",
        id));
  }
  return absl::OkStatus();
}

absl::Status Fits(const ModelSpec& target, const ModelSpec& draft, int64_t context_tokens) {
  if (draft.vocab_size != target.vocab_size) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "it has %d tokens and the model %d; a draft model must have the same vocabulary",
        draft.vocab_size, target.vocab_size));
  }
  const bool bidirectional = draft.bidirectional || target.bidirectional;
  if (bidirectional && draft.family != target.family) {
    return absl::InvalidArgumentError(
        absl::StrFormat("it is of the family %s and the model of %s, which lay prompts out in "
                        "other ways",
                        draft.family, target.family));
  }
  const int64_t wanted = std::min(target.max_positions, context_tokens);
  if (draft.max_positions >= wanted) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("it has %d positions, but --context %d needs %d; lower --context",
                      draft.max_positions, context_tokens, wanted));
}

}  // namespace

// ---- How far ----

DraftControl::DraftControl(bool always)
    : always_(always),
      plain_seconds_(kNewShare),
      longer_seconds_(kNewShare),
      draft_seconds_(kNewShare),
      ahead_(kNewShare) {}

double DraftControl::Gain(int32_t ahead) const {
  const double rate = right_ / std::max(right_ + wrong_, 1e-9);
  const double tokens = rate >= 1.0 ? 1.0 + ahead : (1 - std::pow(rate, ahead + 1)) / (1 - rate);
  // Looking at more tokens makes the large model's step longer where weights do not travel.
  const double plain = plain_seconds_.mean();
  const double look = std::max(0.0, longer_seconds_.mean() - plain) / std::max(ahead_.mean(), 1.0);
  return tokens * plain / (plain + ahead * (draft_seconds_.mean() + look));
}

int32_t DraftControl::Allow(int32_t most) {
  most = std::min(most, kMostAhead);
  if (always_ || most <= 0) return std::max(most, 0);
  if (plain_seconds_.count() < kPlainFirst) return 0;
  if (draft_seconds_.count() < kTriedFirst) return std::min(kFirstAhead, most);
  int32_t best = 0;
  for (int32_t ahead = 1; ahead <= most; ++ahead) {
    if (Gain(ahead) > Gain(best)) best = ahead;
  }
  if (++steps_ % kProbeEvery != 0) return best;
  return best == 0 ? std::min(kFirstAhead, most) : 0;
}

void DraftControl::Count(int32_t ahead, int64_t right, int64_t wrong, double draft_seconds,
                         double step_seconds) {
  if (step_seconds <= 0.0) return;
  if (ahead == 0) return plain_seconds_.Add(step_seconds);
  right_ = kRemembered * right_ + static_cast<double>(right);
  wrong_ = kRemembered * wrong_ + static_cast<double>(wrong);
  if (draft_seconds <= 0.0) return;
  longer_seconds_.Add(step_seconds);
  draft_seconds_.Add(draft_seconds / ahead);
  ahead_.Add(ahead);
}

// ---- The draft model ----

absl::StatusOr<ModelFile> Drafter::OpenFile(const std::string& folder, const ModelSpec& target,
                                            const Tokenizer* tokenizer, int64_t context_tokens) {
  absl::StatusOr<ModelFile> file = ModelFile::Open(folder);
  absl::Status status = file.status();
  if (status.ok()) status = Fits(target, file->spec, context_tokens);
  if (status.ok() && tokenizer != nullptr) status = SameVocabulary(*tokenizer, folder);
  if (status.ok()) return file;
  return absl::Status(status.code(), absl::StrFormat("--draft-model %s: %s", folder,
                                                     std::string(status.message())));
}

LoadOptions Drafter::OptionsFor(LoadOptions target) {
  target.guesses = 0;
  target.branches = 0;
  target.logit_rows = target.batch;
  target.adapter_bytes = 0;
  target.picture_bytes = 0;
  return target;
}

Drafter::Drafter(std::unique_ptr<LoadedModel> loaded, bool always)
    : loaded_(std::move(loaded)),
      use_(loaded_->plan().models[0].use),
      limits_{.prompt_tokens = StepTokens(use_) - use_.batch},
      control_(always),
      asks_(use_.batch),
      others_(use_.batch),
      path_(use_.batch),
      mirrors_(use_.batch),
      step_(StepTokens(use_)),
      sampler_(loaded_->model().spec().vocab_size) {
  order_.reserve(use_.batch);
  behind_.reserve(use_.batch);
  for (std::vector<Other>& others : others_) others.reserve(kMostAhead);
  for (Sequence& mirror : mirrors_) {
    mirror.tokens.reserve(use_.context_tokens);
    for (std::vector<int32_t>& row : mirror.positions) row.reserve(use_.context_tokens);
    mirror.pages.reserve(KvCache::PagesFor(use_.context_tokens));
    followed_.push_back(&mirror);
  }
}

absl::Status Drafter::Run() {
  const double begin = SecondsNow();
  order_.clear();
  behind_.clear();
  for (const Ask& ask : asks_) {
    others_[ask.place].clear();
    path_[ask.place] = 1.0;
    if (ask.most > 0 && Follow(ask)) order_.push_back(ask.place);
  }
  const bool drafts = !order_.empty();
  absl::Status status = CatchUp();
  while (status.ok() && !order_.empty()) {
    ScheduleStep(followed_, order_, limits_, &step_);
    status = loaded_->Run(step_);
    if (!status.ok()) break;
    const Tensor logits = loaded_->pass().host_logits();
    order_.clear();
    for (int64_t row = 0; row < logits.rows; ++row) {
      const int place = step_.sequences[step_.logit_tokens[row]];
      if (TakeRow(place, {logits.f32(row), static_cast<size_t>(logits.cols)})) {
        order_.push_back(place);
      }
    }
  }
  for (Ask& ask : asks_) ask.most = 0;
  for (std::vector<Other>& others : others_) {
    std::ranges::sort(others, std::greater<>(), &Other::probability);
  }
  seconds_ = drafts && behind_.empty() ? SecondsNow() - begin : 0.0;
  return status;
}

// The mirror becomes what the target's sequence is; what both have had in common stays cached.
// False when there is no room.
bool Drafter::Follow(const Ask& ask) {
  const Sequence& target = ask.generation->sequence;
  Sequence& mirror = mirrors_[ask.place];
  const int64_t room = static_cast<int64_t>(target.tokens.size()) + ask.most;
  if (room > use_.context_tokens) return false;
  if (target.bidirectional >= static_cast<int32_t>(target.tokens.size())) return false;
  if (mirror.pages.empty() && !loaded_->Reserve(use_.context_tokens, &mirror)) return false;
  mirror.cached = std::min(mirror.cached, SameTokens(mirror, target));
  // Its last token's logits are wanted again.
  mirror.cached = std::min(mirror.cached, static_cast<int32_t>(target.tokens.size()) - 1);
  if (mirror.cached < target.bidirectional) mirror.cached = 0;  // contexts are read whole
  mirror.bidirectional = target.bidirectional;
  mirror.tokens = target.tokens;
  for (int row : {0, 1}) mirror.positions[row] = target.positions[row];
  if (mirror.pending() > kRidesAlong) behind_.push_back(ask.place);
  return true;
}

// Reads all but the last token of what is new, such as a prompt, over several steps where it is
// long. The last one is left for the step that all drafts begin with.
absl::Status Drafter::CatchUp() {
  if (behind_.empty()) return absl::OkStatus();
  for (const int place : behind_) {
    Sequence& mirror = mirrors_[place];
    mirror.tokens.pop_back();
  }
  absl::Status status;
  const auto pending = [this](int place) { return mirrors_[place].pending() > 0; };
  while (status.ok() && std::any_of(behind_.begin(), behind_.end(), pending)) {
    ScheduleStep(followed_, behind_, limits_, &step_);
    step_.logit_tokens.clear();
    status = loaded_->Run(step_);
  }
  for (const int place : behind_) {
    mirrors_[place].tokens.push_back(asks_[place].generation->sequence.tokens.back());
  }
  return status;
}

// Draws a token as the engine will; false when the sequence runs no further ahead.
bool Drafter::TakeRow(int place, std::span<float> logits) {
  Ask& ask = asks_[place];
  Sequence& target = ask.generation->sequence;
  const uint64_t index = ask.index++;
  sampler_.Sample(*ask.sampling, logits, target.tokens, index, &sampled_);
  const int32_t token = sampled_.token;
  if (ask.others) NoteOther(ask, index, token, logits);
  if (std::find(ask.end_tokens.begin(), ask.end_tokens.end(), token) != ask.end_tokens.end()) {
    return false;
  }
  if (ask.generation->Guess({&token, 1}) == 0 || --ask.most == 0) return false;
  mirrors_[place].Append(token, target.positions[0].back(), target.positions[1].back());
  return true;
}

// The model is taken to choose otherwise than the draft the less often, the further what the draft
// chose was ahead: one time in two where it was not at all.
void Drafter::NoteOther(const Ask& ask, uint64_t index, int32_t drawn, std::span<float> logits) {
  const SecondChoice second = sampler_.Second(*ask.sampling, logits, index, drawn);
  if (second.token < 0) return;
  const double otherwise = 0.5 * std::exp(-static_cast<double>(second.gap));
  double& path = path_[ask.place];
  std::vector<Other>& others = others_[ask.place];
  const bool ends =
      std::find(ask.end_tokens.begin(), ask.end_tokens.end(), second.token) != ask.end_tokens.end();
  if (!ends && std::ssize(others) < kMostAhead) {
    others.push_back({.from = ask.generation->sequence.guessed,
                      .token = second.token,
                      .probability = path * otherwise});
  }
  path *= 1.0 - otherwise;
}

void Drafter::Count(int32_t ahead, int64_t right, int64_t wrong, double step_seconds) {
  control_.Count(ahead, right, wrong, seconds_, step_seconds - (ahead > 0 ? seconds_ : 0.0));
}

void Drafter::Forget(int place) {
  Sequence& mirror = mirrors_[place];
  loaded_->kv().Release(&mirror.pages);
  mirror.tokens.clear();
  for (std::vector<int32_t>& row : mirror.positions) row.clear();
  mirror.cached = 0;
}

}  // namespace qianyi
