// Who is let in, before any work is done for them: bounds of the server, and quotas of keys.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/fair_clock.h"
#include "server/access/key_ring.h"

namespace qianyi {

// What requests bring with them, or a line may hold of it.
struct Load {
  int64_t choices = 0;  // answers, each of a request's `n`
  int64_t tokens = 0;   // of prompts, and all that may be written
  int64_t bytes = 0;    // of memory, besides the cache
};

// Those let in whose requests have not ended, and how fast they do. Pure.
class AdmissionLine {
 public:
  using Time = std::chrono::steady_clock::time_point;

  void Enter(const Load& load, Time now);
  void Leave(const Load& load, Time now);
  const Load& held() const { return held_; }
  // Until so much of `member` will have ended, at the pace of late; whole seconds, 1..120.
  int SecondsUntil(int64_t Load::*member, int64_t amount, Time now) const;

 private:
  struct End {
    Time at;
    Load load;
  };
  Load held_;
  Time busy_since_;
  std::deque<End> ends_;  // the last few since then
};

class Admission;

// Holds what was let in until it is destroyed.
class Ticket {
 public:
  Ticket() = default;  // holds nothing
  Ticket(Ticket&& other) noexcept;
  Ticket& operator=(Ticket&& other) noexcept;
  ~Ticket();

  // More of the request is known: tokens, bytes. Errors as of Admit.
  absl::Status Grow(const Load& more);
  // Tokens that were read or written on the key's account.
  void Spend(int64_t tokens);
  const Turn& turn() const { return turn_; }

 private:
  friend class Admission;
  struct Key;

  Admission* admission_ = nullptr;
  size_t line_ = 0;
  Key* key_ = nullptr;
  Load held_;
  Turn turn_;
};

// Thread-safe.
class Admission {
 public:
  using Clock = std::function<AdmissionLine::Time()>;

  // `lines`: what each model's requests may hold together, 0 = any amount; those of batches may
  // hold half of the `waiting` fewer choices. `bytes` are of all models.
  struct LineLimit {
    int64_t choices = 0;
    int64_t waiting = 0;  // of the choices
    int64_t tokens = 0;
  };
  Admission(std::vector<LineLimit> lines, int64_t bytes,
            Clock clock = std::chrono::steady_clock::now);
  ~Admission();

  // InvalidArgument (`n` can never be had), OverQuota of the caller's key, OverCapacity.
  // One that is named may not fill a line alone.
  absl::StatusOr<Ticket> Admit(const Caller& caller, size_t line, const Load& load, bool batch);

  Load held() const;  // of all models
  Load limit() const;

 private:
  friend class Ticket;
  struct Line {
    LineLimit limit;
    AdmissionLine all, batch;
  };

  Ticket::Key* KeyOf(const Caller& caller, AdmissionLine::Time now);
  absl::Status CheckKey(const Ticket::Key& key, const Load& load, AdmissionLine::Time now) const;
  absl::Status CheckChoices(const Line& line, const Ticket::Key& key, const Load& load, bool batch,
                            AdmissionLine::Time now) const;
  absl::Status CheckSize(const Line& line, const Load& held, const Load& more,
                         AdmissionLine::Time now) const;
  void Hold(Ticket* ticket, const Load& load, AdmissionLine::Time now);
  void Return(Ticket* ticket);

  const Clock clock_;
  const int64_t bytes_limit_;
  mutable std::mutex mutex_;
  std::vector<Line> lines_;
  AdmissionLine all_;
  std::unordered_map<std::string, std::unique_ptr<Ticket::Key>> keys_;
};

}  // namespace qianyi
