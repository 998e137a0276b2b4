#include "server/admission.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_format.h"
#include "server/error.h"

namespace qianyi {
namespace {

using Time = AdmissionLine::Time;

constexpr size_t kEndsKept = 64;
constexpr double kLongestSeconds = 120;  // clients take no longer hint
// A key of weight 1 may hold this many times what is free: alone four fifths of a line, together
// with others less, so that there is room for whoever comes next (Choudhury and Hahne 1998).
constexpr double kShareOfFree = 4;

double Seconds(Time::duration duration) { return std::chrono::duration<double>(duration).count(); }

int WholeSeconds(double seconds) {
  return static_cast<int>(std::ceil(std::clamp(seconds, 1.0, kLongestSeconds)));
}

void Add(const Load& more, Load* to) {
  to->choices += more.choices;
  to->tokens += more.tokens;
  to->bytes += more.bytes;
}

Load Negative(const Load& load) { return {-load.choices, -load.tokens, -load.bytes}; }

}  // namespace

void AdmissionLine::Enter(const Load& load, Time now) {
  if (held_.choices == 0) {
    busy_since_ = now;
    ends_.clear();
  }
  Add(load, &held_);
}

void AdmissionLine::Leave(const Load& load, Time now) {
  Add(Negative(load), &held_);
  ends_.push_back({now, load});
  if (ends_.size() > kEndsKept) ends_.pop_front();
}

int AdmissionLine::SecondsUntil(int64_t Load::*member, int64_t amount, Time now) const {
  Time since = busy_since_;
  int64_t ended = 0;
  for (const End& end : ends_) ended += end.load.*member;
  if (ends_.size() == kEndsKept) {  // the first only marks the beginning
    since = ends_.front().at;
    ended -= ends_.front().load.*member;
  }
  // Nothing has ended yet: as if one of those held did now.
  if (ended == 0) ended = held_.*member / std::max<int64_t>(held_.choices, 1);
  const double pace =
      static_cast<double>(std::max<int64_t>(ended, 1)) / std::max(Seconds(now - since), 1e-3);
  return WholeSeconds(static_cast<double>(amount) / pace);
}

// What one key holds and has left.
struct Ticket::Key {
  std::string name;
  KeyLimits limits;
  uint64_t flow = 0;
  AdmissionLine line;
  double tokens_left = 0;  // of this minute; below 0 it has overdrawn, and waits until it has not
  Time refilled;

  void Refill(Time now) {
    const double most = static_cast<double>(limits.tokens_per_minute);
    tokens_left = std::min(most, tokens_left + most / 60 * Seconds(now - refilled));
    refilled = now;
  }
};

Ticket::Ticket(Ticket&& other) noexcept { *this = std::move(other); }

Ticket& Ticket::operator=(Ticket&& other) noexcept {
  std::swap(admission_, other.admission_);
  std::swap(line_, other.line_);
  std::swap(key_, other.key_);
  std::swap(held_, other.held_);
  std::swap(turn_, other.turn_);
  return *this;
}

Ticket::~Ticket() {
  if (admission_ != nullptr) admission_->Return(this);
}

absl::Status Ticket::Grow(const Load& more) {
  if (admission_ == nullptr) return absl::OkStatus();
  std::lock_guard lock(admission_->mutex_);
  const Time now = admission_->clock_();
  absl::Status status = admission_->CheckSize(admission_->lines_[line_], held_, more, now);
  if (status.ok()) admission_->Hold(this, more, now);
  return status;
}

void Ticket::Spend(int64_t tokens) {
  if (admission_ == nullptr) return;
  std::lock_guard lock(admission_->mutex_);
  key_->tokens_left -= static_cast<double>(tokens);
}

Admission::Admission(std::vector<LineLimit> lines, int64_t bytes, Clock clock)
    : clock_(std::move(clock)), bytes_limit_(bytes) {
  for (const LineLimit& limit : lines) lines_.push_back({limit, {}, {}});
}

Admission::~Admission() = default;

// The limits of a key may have changed since it was last seen. There are as many as names in the
// key file ever had.
Ticket::Key* Admission::KeyOf(const Caller& caller, Time now) {
  std::unique_ptr<Ticket::Key>& key = keys_[caller.name];
  const bool is_new = key == nullptr;
  if (is_new) {
    key = std::make_unique<Ticket::Key>();
    key->name = caller.name;
    key->flow = keys_.size();
    key->refilled = now;
  }
  if (is_new || key->limits.tokens_per_minute == 0) {
    key->tokens_left = static_cast<double>(caller.limits.tokens_per_minute);
  }
  key->limits = caller.limits;
  key->Refill(now);
  return key.get();
}

absl::Status Admission::CheckKey(const Ticket::Key& key, const Load& load, Time now) const {
  const KeyLimits& limits = key.limits;
  const int64_t held = key.line.held().choices;
  if (limits.concurrency > 0 && load.choices > limits.concurrency) {
    return BadParam("n", absl::StrFormat("n is %d, but the key %s may have %d answers at once; "
                                         "lower n",
                                         load.choices, key.name, limits.concurrency));
  }
  if (limits.concurrency > 0 && held + load.choices > limits.concurrency) {
    const int64_t excess = held + load.choices - limits.concurrency;
    const int seconds = key.line.SecondsUntil(&Load::choices, excess, now);
    return OverQuota("key_concurrency",
                     absl::StrFormat("the key %s has %d answers in progress and may have %d; try "
                                     "again in about %d s, or when one has ended",
                                     key.name, held, limits.concurrency, seconds),
                     seconds);
  }
  if (limits.tokens_per_minute > 0 && key.tokens_left <= 0) {
    const double pace = static_cast<double>(limits.tokens_per_minute) / 60;
    const int seconds = WholeSeconds((1 - key.tokens_left) / pace);
    return OverQuota("key_tokens",
                     absl::StrFormat("the key %s has used up its %d tokens a minute; try again in "
                                     "%d s",
                                     key.name, limits.tokens_per_minute, seconds),
                     seconds);
  }
  return absl::OkStatus();
}

absl::Status Admission::CheckChoices(const Line& line, const Ticket::Key& key, const Load& load,
                                     bool batch, Time now) const {
  const int64_t limit = line.limit.choices;
  if (limit == 0) return absl::OkStatus();
  if (load.choices > limit) {
    return BadParam("n", absl::StrFormat("n is %d, but at most %d answers of a model run or wait "
                                         "here (--batch and --queue); lower n",
                                         load.choices, limit));
  }
  const int64_t held = line.all.held().choices;
  const auto full = [&](const char* reason, const AdmissionLine& of, int64_t excess,
                        const std::string& what) {
    const int seconds = of.SecondsUntil(&Load::choices, std::max<int64_t>(excess, 1), now);
    return OverCapacity(
        reason,
        absl::StrFormat("%s; try again in about %d s, or ask another server", what, seconds),
        seconds);
  };
  if (held + load.choices > limit) {
    return full("queue_full", line.all, held + load.choices - limit,
                absl::StrFormat("%d answers run or wait, and there is room for %d", held, limit));
  }
  const int64_t batch_limit = std::max<int64_t>(1, limit - line.limit.waiting / 2);
  const int64_t batch_held = line.batch.held().choices;
  if (batch && batch_held > 0 && batch_held + load.choices > batch_limit) {
    return full("queue_full", line.batch, batch_held + load.choices - batch_limit,
                absl::StrFormat("%d answers of batches run or wait, and there is room for %d",
                                batch_held, batch_limit));
  }
  const int64_t own = key.line.held().choices;
  const double share = kShareOfFree * key.limits.weight * static_cast<double>(limit - held);
  if (!key.name.empty() && own > 0 && static_cast<double>(own + load.choices) > share) {
    return full("queue_share", key.line, load.choices,
                absl::StrFormat("the key %s has %d answers in progress, and what is free of %d is "
                                "kept for others",
                                key.name, own, limit));
  }
  return absl::OkStatus();
}

absl::Status Admission::CheckSize(const Line& line, const Load& held, const Load& more,
                                  Time now) const {
  struct SizeLimit {
    int64_t Load::*member;
    const AdmissionLine& line;
    int64_t limit;
    const char* reason;
    const char* what;
    const char* flag;
    const char* param;
  };
  for (const SizeLimit& bound :
       {SizeLimit{&Load::tokens, line.all, line.limit.tokens, "queue_tokens", "tokens",
                  "--queue-tokens", "max_tokens"},
        SizeLimit{&Load::bytes, all_, bytes_limit_, "queue_memory", "bytes", "--queue-memory",
                  "n"}}) {
    const int64_t wanted = more.*bound.member;
    const int64_t whole = held.*bound.member + wanted;  // of this request
    const int64_t there = bound.line.held().*bound.member;
    if (bound.limit == 0 || wanted == 0 || there + wanted <= bound.limit) continue;
    if (whole > bound.limit) {
      return BadParam(bound.param, absl::StrFormat("the request would need %d %s, and there is "
                                                   "room for %d (%s); lower n or max_tokens",
                                                   whole, bound.what, bound.limit, bound.flag));
    }
    const int64_t excess = there + wanted - bound.limit;
    const int seconds = bound.line.SecondsUntil(bound.member, excess, now);
    return OverCapacity(
        bound.reason,
        absl::StrFormat("requests that run or wait need %d %s of %d, and this one %d more; try "
                        "again in about %d s, or ask another server",
                        there, bound.what, bound.limit, wanted, seconds),
        seconds);
  }
  return absl::OkStatus();
}

void Admission::Hold(Ticket* ticket, const Load& load, Time now) {
  Add(load, &ticket->held_);
  Line& line = lines_[ticket->line_];
  line.all.Enter(load, now);
  if (ticket->turn_.batch) line.batch.Enter(load, now);
  ticket->key_->line.Enter(load, now);
  all_.Enter(load, now);
}

void Admission::Return(Ticket* ticket) {
  std::lock_guard lock(mutex_);
  const Time now = clock_();
  Line& line = lines_[ticket->line_];
  line.all.Leave(ticket->held_, now);
  if (ticket->turn_.batch) line.batch.Leave(ticket->held_, now);
  ticket->key_->line.Leave(ticket->held_, now);
  all_.Leave(ticket->held_, now);
}

absl::StatusOr<Ticket> Admission::Admit(const Caller& caller, size_t line, const Load& load,
                                        bool batch) {
  std::lock_guard lock(mutex_);
  const Time now = clock_();
  Ticket::Key* key = KeyOf(caller, now);
  absl::Status status = CheckKey(*key, load, now);
  if (status.ok()) status = CheckChoices(lines_[line], *key, load, batch, now);
  if (status.ok()) status = CheckSize(lines_[line], {}, load, now);
  if (!status.ok()) return status;
  Ticket ticket;
  ticket.admission_ = this;
  ticket.line_ = line;
  ticket.key_ = key;
  ticket.turn_ = {key->flow, key->limits.weight, batch};
  Hold(&ticket, load, now);
  return ticket;
}

Load Admission::held() const {
  std::lock_guard lock(mutex_);
  return all_.held();
}

Load Admission::limit() const {
  Load limit{.bytes = bytes_limit_};
  for (const Line& line : lines_) Add({line.limit.choices, line.limit.tokens, 0}, &limit);
  return limit;
}

}  // namespace qianyi
