// Which of several models computes next on processors that they share: by weight, one at a time,
// and whoever waits for a disk lets others go on.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "runtime/storage/wait_observer.h"

namespace qianyi {

// The rule alone: no clock, no thread. Each member's time counts divided by its weight, and the
// turn is for the one of those that want it who had the least. Who was away comes back with a
// small credit at most, so that it cannot keep others out for as long as it was idle.
class TurnRule {
 public:
  static constexpr int64_t kCreditNanoseconds = 50'000'000;

  int Add(double weight);  // above 0; members are 0, 1, …
  void Want(int member);
  int Next() const;        // -1: nobody wants it
  void Begin(int member);  // it has the turn, and wants it no more
  void Charge(int member, int64_t nanoseconds);

 private:
  struct Member {
    double weight = 1;
    double used = 0;  // nanoseconds, divided by the weight
    bool wants = false;
  };
  std::vector<Member> members_;
  double now_ = 0;  // what the member who began last had used by then
};

// Thread-safe. Members are added before any of them computes.
class ComputeShare {
 public:
  struct Stats {
    double weight = 1;
    double seconds = 0;       // it had the turn
    double wait_seconds = 0;  // it wanted the turn
  };

  // Of one thread but for stats().
  class Member : public WaitObserver {
   public:
    void Enter();
    void Leave();
    // Between two pieces of work: lets another go first whose turn it is.
    void Yield();
    void OnWait() override { Leave(); }
    void OnGoOn() override { Enter(); }
    Stats stats() const;

   private:
    friend class ComputeShare;
    Member(ComputeShare* share, int index, double weight)
        : share_(*share), index_(index), stats_{.weight = weight} {}
    void Wait(std::unique_lock<std::mutex>& lock);
    void Charge();

    ComputeShare& share_;
    const int index_;
    std::condition_variable turn_;
    int64_t since_ = 0;  // nanoseconds: when it got the turn, or was charged last
    Stats stats_;        // guarded by the share's mutex
  };

  // The result lives as long as this.
  Member* Add(double weight);

 private:
  void Grant();  // with mutex_ held, when nobody has the turn

  mutable std::mutex mutex_;
  TurnRule rule_;
  int holder_ = -1;
  std::vector<std::unique_ptr<Member>> members_;
};

// Has the turn for as long as it lives. `member` may be null: then nobody shares.
class ComputeTurn {
 public:
  explicit ComputeTurn(ComputeShare::Member* member) : member_(member) {
    if (member_ != nullptr) member_->Enter();
  }
  ~ComputeTurn() {
    if (member_ != nullptr) member_->Leave();
  }
  ComputeTurn(const ComputeTurn&) = delete;
  ComputeTurn& operator=(const ComputeTurn&) = delete;
  void Yield() {
    if (member_ != nullptr) member_->Yield();
  }

 private:
  ComputeShare::Member* const member_;
};

}  // namespace qianyi
