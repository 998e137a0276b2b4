// Who hears that the thread which computes waits for a disk: others may compute meanwhile.
#pragma once

namespace qianyi {

class WaitObserver {
 public:
  virtual ~WaitObserver() = default;
  virtual void OnWait() = 0;  // quick
  virtual void OnGoOn() = 0;  // may wait in turn; called without any lock
};

// One place that may wait. Declare it before the lock that is waited with: it ends behind it.
class ObservedWait {
 public:
  explicit ObservedWait(WaitObserver* observer) : observer_(observer) {}  // or null
  ~ObservedWait() {
    if (waits_) observer_->OnGoOn();
  }
  ObservedWait(const ObservedWait&) = delete;
  ObservedWait& operator=(const ObservedWait&) = delete;

  void Begin() {
    if (observer_ == nullptr || waits_) return;
    waits_ = true;
    observer_->OnWait();
  }

 private:
  WaitObserver* const observer_;
  bool waits_ = false;
};

}  // namespace qianyi
